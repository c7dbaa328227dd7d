#include "train/optimizer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/host_copy.hpp"
#include "kernels/adamw.hpp"
#include "kernels/elementwise.hpp"
#include "train/learning_rate.hpp"

namespace longlora {
namespace {

constexpr Index piece = 4096;  // elements; the norm is summed over such pieces, whoever holds them

Index own_size(const std::vector<Range>& pieces, int rank) {
    return pieces[static_cast<std::size_t>(rank)].size();
}

}  // namespace

template <class Device>
Optimizer<Device>::Optimizer(const Parameters<Device>& parameters,
                             const Communicator<Device>& world)
    : world_(world),
      pieces_(equal_pieces(parameters.size(), world.size(), piece)),
      gradient_(own_size(pieces_, world.rank())),
      first_(own_size(pieces_, world.rank())),
      second_(own_size(pieces_, world.rank())),
      squares_(ceil_div(own_size(pieces_, world.rank()), piece)) {}

template <class Device>
double Optimizer<Device>::reduce(Parameters<Device>& parameters, const Stream<Device>& stream,
                                 PhaseTimer& timer) {
    const PhaseScope sync(timer, Phase::gradient_sync);
    const auto sums = parameters.gradient_sums();
    const auto own = sums.slice(range());
    world_.reduce_scatter_sum(stream, sums, pieces_);
    fixed_point_value(stream, {.sum = own, .out = gradient_.view()});
    HostCopy refused(stream, parameters.refused());
    const bool is_good = world_.sum(refused.values()[0]) == 0;
    return is_good ? norm(stream) : std::numeric_limits<double>::quiet_NaN();
}

// Pieces are squared where they lie and added in order by everyone: the same bits for any ranks.
template <class Device>
double Optimizer<Device>::norm(const Stream<Device>& stream) {
    std::vector<Range> places;
    for (const Range& range : pieces_) {
        places.push_back({range.begin / piece, ceil_div(range.end, piece)});
    }
    std::vector<double> squares(static_cast<std::size_t>(places.back().end));
    const Range mine = places[static_cast<std::size_t>(world_.rank())];
    const View<Cpu, double, 1> all(squares.data(), places.back().end);
    squared_norms(stream, {.x = gradient_.view(), .piece = piece, .squares = squares_.view()});
    download<Device, double>(stream, squares_.view(),
                             std::span(squares).subspan(static_cast<std::size_t>(mine.begin),
                                                        static_cast<std::size_t>(mine.size())));
    world_.all_gather(all, places);
    return std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
}

// g *= min(1, clip / (norm + 1e-6)), then AdamW on this rank's range, tensor by tensor
template <class Device>
void Optimizer<Device>::step(Parameters<Device>& parameters, const Stream<Device>& stream,
                             const Options::Train& train, const Update& update, PhaseTimer& timer) {
    {
        const PhaseScope updating(timer, Phase::optimizer);
        const double clip =
            train.clip_norm > 0 ? std::min(1.0, train.clip_norm / (update.norm + 1e-6)) : 1.0;
        const Range mine = range();
        for (const Parameter& parameter : parameters.table()) {
            const Range held{std::max(mine.begin, parameter.offset),
                             std::min(mine.end, parameter.offset + parameter.shape.size())};
            if (held.empty()) {
                continue;
            }
            const Range local{held.begin - mine.begin, held.end - mine.begin};
            adamw_step(stream, {.weight = parameters.weights().slice(held),
                                .gradient = gradient_.view().slice(local),
                                .first_moment = first_.view().slice(local),
                                .second_moment = second_.view().slice(local),
                                .learning_rate = learning_rate(train, update.step),
                                .beta1 = train.beta1,
                                .beta2 = train.beta2,
                                .epsilon = train.epsilon,
                                .weight_decay = parameter.decays ? train.weight_decay : 0.0,
                                .gradient_scale = clip,
                                .step = update.step});
        }
    }
    const PhaseScope sync(timer, Phase::gradient_sync);
    world_.all_gather(stream, parameters.weights(), pieces_);
}

template <class Device>
std::size_t Optimizer<Device>::bytes(Index trainables, int ranks) {
    Index largest = 0;
    for (const Range& range : equal_pieces(trainables, ranks, piece)) {
        largest = std::max(largest, range.size());
    }
    return 3 * sizeof(float) * static_cast<std::size_t>(largest);
}

LONGLORA_INSTANTIATE(Optimizer);

}  // namespace longlora
