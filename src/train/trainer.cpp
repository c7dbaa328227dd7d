#include "train/trainer.hpp"

#include <algorithm>
#include <cmath>

#include "comm/agree.hpp"
#include "core/device_memory.hpp"
#include "core/error.hpp"
#include "core/host_copy.hpp"
#include "core/progress_point.hpp"
#include "core/random.hpp"
#include "core/terminal.hpp"
#include "core/text.hpp"
#include "io/gradient_file.hpp"
#include "plan/flops.hpp"
#include "train/learning_rate.hpp"
#include "train/resume.hpp"
#include "train/stop_signal.hpp"

namespace longlora {
namespace {

// Steps shorter than this are finished before a stop is obeyed; longer ones are given up.
constexpr double patience_seconds = 10;

template <class Device>
typename TwoPass<Device>::Shape two_pass_shape(const TrainerSetup<Device>& setup) {
    return {setup.config, setup.tune, setup.plan.layout, setup.plan.kept,
            setup.options.train.deterministic == choice::Deterministic::layout};
}

// The arena is as large as the code that allocates from it says.
template <class Device>
Arena<Device> sized_arena(const TrainerSetup<Device>& setup, Index rank) {
    auto measuring = Arena<Device>::measuring("training of a row");
    const TwoPass<Device> sized(measuring, two_pass_shape(setup), rank);
    return Arena<Device>("training of a row", measuring.used());
}

}  // namespace

template <class Device>
Trainer<Device>::Trainer(TrainerSetup<Device> setup, Mesh<Device>& mesh,
                         Parameters<Device>& parameters, WeightStore<Device>& store)
    : setup_(std::move(setup)),
      mesh_(mesh),
      parameters_(parameters),
      store_(store),
      stream_(setup_.threads),
      model_(setup_.config, setup_.tune, parameters, store),
      arena_(sized_arena(setup_, mesh.sequence_index())),
      two_pass_(arena_, two_pass_shape(setup_), mesh.sequence_index()),
      optimizer_(parameters, mesh.world()),
      data_(
          agree([&] { return TokenStream(setup_.options.data.train, setup_.config.vocabulary); })),
      evaluator_(setup_.config, setup_.tune),
      rows_{static_cast<std::uint64_t>(setup_.options.run.seed), setup_.options.train.batch,
            stream_rows(data_.size(), setup_.options.sequence.length)},
      row_flops_(row_flops(setup_.config, setup_.tune, setup_.plan.layout)) {
    two_pass_.connect(mesh.sequence(), timer_);
    agree([&] {
        if (!setup_.options.data.validation.empty()) {
            validation_.emplace(setup_.options.data.validation, setup_.config.vocabulary);
        }
    });
}

template <class Device>
Index Trainer<Device>::resume() {
    const auto loaded =
        load_trainables(stream_, parameters_, optimizer_, setup_.folder, mesh_.world());
    if (!loaded) {
        return 0;
    }
    store_.refresh(stream_);
    done_ = loaded->step;
    saved_ = loaded->step;
    tokens_seen_ = std::get<double>(loaded->attributes.at("tokens_seen"));
    return done_;
}

template <class Device>
bool Trainer<Device>::should_stop() const {
    const bool is_long = now_seconds() - step_start_ > patience_seconds;
    return mesh_.world().max(static_cast<std::int64_t>(is_long && stop_was_requested())) != 0;
}

template <class Device>
typename Trainer<Device>::Batch Trainer<Device>::batch_of(Index step) const {
    const Index batch = setup_.options.train.batch;
    const Range own = deal(batch, mesh_.data_size(), mesh_.data_index());
    Batch result;
    for (Index position = own.begin; position < own.end; ++position) {
        result.own_rows.push_back(rows_.row_of(step - 1, position));
        const Range labels = row_labels(result.own_rows.back(), setup_.options.sequence.length);
        // One rank of the replica counts; the sum goes over all ranks.
        result.labels +=
            mesh_.sequence_index() == 0 ? static_cast<double>(data_.count_labels(labels)) : 0;
    }
    result.labels = mesh_.world().sum(result.labels);
    result.turns = ceil_div(batch, mesh_.data_size());
    return result;
}

template <class Device>
std::optional<double> Trainer<Device>::accumulate_rows(Index step, const Batch& batch) {
    const Index length = setup_.options.sequence.length;
    const auto key = random_key(rows_.seed, Purpose::dropout, static_cast<std::uint64_t>(step));
    const auto ask = [this] { return should_stop(); };
    double loss = 0;
    for (Index turn = 0; turn < batch.turns; ++turn) {
        if (turn >= static_cast<Index>(batch.own_rows.size())) {
            if (two_pass_.idle(ask)) {
                return std::nullopt;
            }
            continue;
        }
        const Index row = batch.own_rows[static_cast<std::size_t>(turn)];
        const Index first = row_tokens(row, length).begin;
        const auto read = [&](Range range, std::span<std::int32_t> tokens,
                              std::span<std::int32_t> labels) {
            data_.read({first + range.begin, first + range.end}, tokens);
            data_.read_labels({first + range.begin + 1, first + range.end + 1}, labels);
        };
        if (progress_) {
            two_pass_.set_progress([&](Index chunk, Pass pass) {
                const auto chunks = static_cast<double>(setup_.plan.layout.chunks);
                const double passed =
                    pass == Pass::keep ? static_cast<double>(chunk)
                                       : chunks - 1 + 2 * (chunks - 1 - static_cast<double>(chunk));
                const double fraction = (static_cast<double>(turn) + passed / (3 * chunks - 1)) /
                                        static_cast<double>(batch.turns);
                progress_->inside(step, fraction,
                                  std::string(pass == Pass::keep ? "pass 1" : "pass 2") +
                                      ", chunk " + std::to_string(chunk + 1) + " of " +
                                      std::to_string(setup_.plan.layout.chunks));
            });
        }
        const auto part = two_pass_.run(model_, stream_,
                                        {read, static_cast<float>(1.0 / batch.labels),
                                         mix_bits(key ^ static_cast<std::uint64_t>(row))},
                                        ask);
        if (!part) {
            return std::nullopt;
        }
        loss += *part;
    }
    return loss;
}

template <class Device>
std::optional<StepRecord> Trainer<Device>::train_step(Index step) {
    step_start_ = now_seconds();
    std::optional<AllocationBan> ban;
    if (has_all_memory_) {
        ban.emplace();
    }
    progress_point().step = step;
    two_pass_.exchange().reset_sent_bytes();
    const Batch batch = batch_of(step);
    StepRecord record;
    record.step = step;
    record.learning_rate = learning_rate(setup_.options.train, step);
    record.tokens =
        static_cast<double>(setup_.options.train.batch * setup_.options.sequence.length);
    parameters_.clear_gradients(stream_, record.tokens);
    record.flops = row_flops_ * static_cast<double>(setup_.options.train.batch);
    if (batch.labels > 0) {
        const auto loss = accumulate_rows(step, batch);
        if (!loss) {
            return std::nullopt;
        }
        record.loss = mesh_.world().sum(*loss) / batch.labels;
        if (step == 1 && !setup_.options.train.dump_gradients.empty()) {
            dump_gradients(record.loss);
        }
        update(record);
    } else {
        log_event(step, "no labels", "every label of the batch is ignored: step skipped");
    }
    record.halo_bytes = mesh_.world().sum(two_pass_.exchange().sent_bytes());
    record.seconds = mesh_.world().max(now_seconds() - step_start_);
    has_all_memory_ = batch.labels > 0;
    return record;
}

template <class Device>
void Trainer<Device>::update(StepRecord& record) {
    record.gradient_norm = optimizer_.reduce(parameters_, stream_, timer_);
    if (std::isfinite(record.loss) && std::isfinite(record.gradient_norm)) {
        optimizer_.step(parameters_, stream_, setup_.options.train,
                        {record.step, record.gradient_norm}, timer_);
        store_.refresh(stream_);
        bad_steps_ = 0;
    } else {
        note_bad_step(record);
    }
}

template <class Device>
void Trainer<Device>::note_bad_step(const StepRecord& record) {
    ++bad_steps_;
    log_event(record.step, "non-finite",
              "loss " + format_number(record.loss) + ", gradient norm " +
                  format_number(record.gradient_norm) + ": step skipped");
    if (mesh_.is_root()) {
        warn("step " + std::to_string(record.step) + " skipped: loss or gradient is not finite (" +
             std::to_string(bad_steps_) + " in a row)");
    }
    if (bad_steps_ >= setup_.options.train.max_bad_steps) {
        throw Error::of_all_ranks(
            "loss or gradient was not finite in " + std::to_string(bad_steps_) +
                " steps in a row (train.max_bad_steps); the last checkpoint stays: try a "
                "lower train.learning_rate, or look at the data and the base model",
            ExitCode::failure);
    }
}

template <class Device>
void Trainer<Device>::dump_gradients(double loss) {
    HostCopy own(stream_, parameters_.gradient_sums());
    const auto held = own.values();
    std::vector<std::int64_t> sums(held.begin(), held.end());
    mesh_.world().all_reduce_sum(View<Cpu, std::int64_t, 1>(sums.data(), parameters_.size()));
    std::vector<float> sum(sums.size());
    std::transform(sums.begin(), sums.end(), sum.begin(), [](std::int64_t x) {
        return static_cast<float>(static_cast<double>(x) / fixed_point_one);
    });
    const auto tensors = checkpoint_tensors(parameters_.table());
    agree([&] {
        if (mesh_.is_root()) {
            write_gradients(setup_.options.train.dump_gradients, tensors, sum, loss);
        }
    });
}

template <class Device>
void Trainer<Device>::save(Index step) {
    if (saved_ == step) {
        return;
    }
    const PhaseScope saving(timer_, Phase::checkpoint);
    agree([&] {
        if (log_) {
            log_->check_place();
        }
    });
    Attributes attributes = setup_.attributes;
    attributes["step"] = static_cast<std::int64_t>(step);
    attributes["tokens_seen"] = tokens_seen_;
    attributes["sampler_seed"] = static_cast<std::uint64_t>(rows_.seed);
    attributes["sampler_next_row"] = static_cast<std::int64_t>(step * rows_.batch);
    const Range mine = optimizer_.range();
    HostCopy weights(stream_, parameters_.weights().slice(mine));
    HostCopy first(stream_, optimizer_.first_moment());
    HostCopy second(stream_, optimizer_.second_moment());
    const CheckpointPart<const float> part{mine, weights.values(), first.values(), second.values()};
    write_checkpoint(checkpoint_path(setup_.folder.checkpoints(), step), attributes,
                     checkpoint_tensors(parameters_.table()), part);
    agree([&] {
        if (mesh_.is_root()) {
            prune_checkpoints(setup_.folder.checkpoints(), setup_.options.run.keep);
        }
    });
    saved_ = step;
    log_event(step, "checkpoint", checkpoint_path(setup_.folder.checkpoints(), step));
}

template <class Device>
ExitCode Trainer<Device>::run() {
    open_log();
    if (!evaluate_start()) {
        return stop(done_);
    }
    const Options::Train& train = setup_.options.train;
    if (mesh_.is_root()) {
        progress_.emplace(done_ + 1, train.steps, setup_.options.log.every);
    }
    while (done_ < train.steps) {
        const auto record = train_step(done_ + 1);
        if (!record) {
            return stop(done_);
        }
        ++done_;
        tokens_seen_ += record->tokens;
        const bool is_last = done_ == train.steps;
        // The log first: a kill in between resumes from an older checkpoint and cuts the row again.
        log_step(*record);
        timer_.reset();  // what follows, a checkpoint among it, counts for the next step
        if (train.checkpoint_every > 0 && done_ % train.checkpoint_every == 0 && !is_last) {
            save(done_);
        }
        if (mesh_.world().max(static_cast<std::int64_t>(stop_was_requested())) != 0) {
            return stop(done_);
        }
        if (!evaluate_if_due()) {
            return stop(done_);
        }
    }
    save(done_);
    return finish(done_);
}

template <class Device>
ExitCode Trainer<Device>::stop(Index step) {
    save(step);
    log_event(step, "stopped", "on request, after a checkpoint");
    if (progress_) {
        progress_->end();
    }
    if (log_) {
        log_->close();
        say("stopped on request after step " + std::to_string(step) + "; checkpoint " +
            checkpoint_path(setup_.folder.checkpoints(), step) + "; start again to resume");
    }
    return ExitCode::stopped;
}

LONGLORA_INSTANTIATE(Trainer);

}  // namespace longlora
