// Every rank fills K and V with numbers that say what they are, goes through the two-pass schedule
// without any attention, and checks what arrives; on the way back each consumer adds numbers that
// the owner can foretell.
#include "model/context_exchange.hpp"

#include <chrono>
#include <thread>

#include <boost/test/unit_test.hpp>

#include "core/error.hpp"

using namespace longlora;

namespace {

constexpr Index layers = 3;
constexpr Index head_dim = 2;

// One element of K or V of the whole row.
struct Place {
    Index layer;
    Index head;
    Index position;
    Index feature;
    Index is_value;
};

// Different for each place and row of data, and exact in float.
float number(const Place& at, Index row) {
    const Index index = ((at.layer * 9 + at.head) * 512 + at.position) * head_dim + at.feature;
    return static_cast<float>(4 * (2 * index + at.is_value) + row);
}

// What `consumer` adds to the gradient of a place; summed over all consumers still exact.
float share(const Place& at, const ContextBlock& block) {
    return static_cast<float>(1 + 3 * block.consumer + 50 * block.kv_heads.begin + at.layer +
                              at.position % 7 + 5 * at.head + 2 * at.feature + 11 * at.is_value);
}

float own_share(const Place& at) {
    return static_cast<float>(1000 + at.position + 13 * at.layer + 17 * at.head + at.feature +
                              at.is_value);
}

std::string name(const Layout& layout) {
    return "N " + std::to_string(layout.length) + " G " + std::to_string(layout.group) + " P " +
           std::to_string(layout.ranks) + " C " + std::to_string(layout.chunks) + " pattern " +
           std::to_string(static_cast<int>(layout.pattern)) + " boundary " +
           std::to_string(static_cast<int>(layout.boundary));
}

// Calls body(place, element) for all of a block of K (is_value 0) or V (1) that starts at `first`.
template <class T, class Body>
void for_elements(View<Cpu, T, 2> values, Place first, const Body& body) {
    for (Index r = 0; r < values.rows(); ++r) {
        for (Index c = 0; c < values.columns(); ++c) {
            Place at = first;
            at.position += r;
            at.head += c / head_dim;
            at.feature = c % head_dim;
            body(at, values(r, c));
        }
    }
}

class Simulation {
public:
    Simulation(const Layout& layout, const Heads& heads, bool wants_gradients = true)
        : layout_(layout),
          heads_(heads),
          wants_gradients_(wants_gradients),
          arena_("test", measured(layout, heads, wants_gradients)),
          exchange_(arena_, {layout, heads, head_dim, layers, wants_gradients}, world_.rank()),
          keys_values_(2 * size()),
          gradients_(2 * size()) {
        exchange_.connect(world_, timer_);
        for (Index shard = 0; shard < layout.shards(); ++shard) {
            const auto blocks = plan_shard(layout, heads, shard).blocks;
            all_blocks_.insert(all_blocks_.end(), blocks.begin(), blocks.end());
        }
    }

    void run(Index row) {
        row_ = row;
        for (Index chunk = 0; chunk + 1 < layout_.chunks; ++chunk) {
            exchange_.begin_chunk(chunk, Pass::keep);
            for (Index layer = 0; layer + 1 < layers; ++layer) {
                forward(layer);
            }
            fill_keys_values(layers - 1);
            exchange_.keep_only(stream_, layers - 1, keys(keys_values_), values(keys_values_));
        }
        for (Index chunk = layout_.chunks - 1; chunk >= 0; --chunk) {
            exchange_.begin_chunk(chunk, Pass::compute);
            for (Index layer = 0; layer < layers; ++layer) {
                forward(layer);
            }
            for (Index layer = layers - 1; layer >= 0 && wants_gradients_; --layer) {
                backward(layer);
            }
        }
    }

    Index wrong_values() const { return wrong_values_; }
    Index wrong_gradients() const { return wrong_gradients_; }
    double sent_bytes() const { return world_.sum(exchange_.sent_bytes()); }
    double foretold_bytes() const {
        const Traffic traffic = training_traffic(layout_, heads_, head_dim, layers);
        return 4 * (traffic.forward + (wants_gradients_ ? traffic.backward : 0.0));
    }
    ContextExchange<Cpu>& exchange() { return exchange_; }

private:
    static std::size_t measured(const Layout& layout, const Heads& heads, bool wants_gradients) {
        auto arena = Arena<Cpu>::measuring("test");
        const auto rank = Communicator<Cpu>::world().rank();
        ContextExchange<Cpu>(arena, {layout, heads, head_dim, layers, wants_gradients}, rank);
        return arena.used();
    }

    Index columns() const { return heads_.kv * head_dim; }
    Index size() const { return layout_.shard_length() * columns(); }

    // K and V side by side, as in the model's packed projection.
    View<Cpu, float, 2> keys(Buffer<Cpu, float>& memory) const {
        return View<Cpu, float, 2>(memory.view().data(), layout_.shard_length(), 2 * columns())
            .columns({0, columns()});
    }
    View<Cpu, float, 2> values(Buffer<Cpu, float>& memory) const {
        return View<Cpu, float, 2>(memory.view().data(), layout_.shard_length(), 2 * columns())
            .columns({columns(), 2 * columns()});
    }

    Place start(Index layer, Index is_value) const {
        return {layer, 0, exchange_.tokens().begin, 0, is_value};
    }

    void fill_keys_values(Index layer) {
        const auto fill = [&](const Place& at, float& x) { x = number(at, row_); };
        for_elements(keys(keys_values_), start(layer, 0), fill);
        for_elements(values(keys_values_), start(layer, 1), fill);
    }

    void check(const KeyValueBlock<Cpu>& arrived, const ContextBlock& block, Index layer) {
        const Place first{layer, block.kv_heads.begin, block.tokens.begin, 0, 0};
        const auto compare = [&](Place at, float x) { wrong_values_ += x != number(at, row_); };
        wrong_values_ += arrived.first_head != block.kv_heads.begin;
        wrong_values_ += arrived.k.rows() != block.rows() || arrived.v.rows() != block.rows();
        wrong_values_ += arrived.k.columns() != block.kv_heads.size() * head_dim;
        for_elements(arrived.k, first, compare);
        for_elements(arrived.v, {layer, first.head, first.position, 0, 1}, compare);
    }

    void forward(Index layer) {
        fill_keys_values(layer);
        exchange_.begin_forward(stream_, layer, keys(keys_values_), values(keys_values_));
        exchange_.poll();
        const auto& blocks = exchange_.plan().blocks;
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            check(exchange_.wait_block(layer, static_cast<Index>(i)), blocks[i], layer);
        }
        exchange_.end_forward();
    }

    void backward(Index layer) {
        const auto d_k = keys(gradients_);
        const auto d_v = values(gradients_);
        std::fill(gradients_.view().begin(), gradients_.view().end(), 0.0F);
        exchange_.begin_backward(stream_, layer);
        exchange_.add_kept_gradients(stream_, layer, {d_k, d_v});
        const auto& blocks = exchange_.plan().blocks;
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            const auto index = static_cast<Index>(i);
            check(exchange_.block(layer, index), blocks[i], layer);  // still there
            const auto gradient = exchange_.gradient_block(stream_, layer, index);
            const Place first{layer, blocks[i].kv_heads.begin, blocks[i].tokens.begin, 0, 0};
            const auto add = [&](const Place& at, float& x) { x += share(at, blocks[i]); };
            for_elements(gradient.k, first, add);
            for_elements(gradient.v, {layer, first.head, first.position, 0, 1}, add);
            exchange_.send_gradient(stream_, index);
        }
        const auto add_own = [](const Place& at, float& x) { x += own_share(at); };
        for_elements(d_k, start(layer, 0), add_own);
        for_elements(d_v, start(layer, 1), add_own);
        exchange_.end_backward(stream_, layer, {d_k, d_v});
        const auto compare = [&](const Place& at, float x) {
            wrong_gradients_ += x != expected_gradient(at);
        };
        for_elements(d_k, start(layer, 0), compare);
        for_elements(d_v, start(layer, 1), compare);
    }

    // Own part, and the shares of all that need the place, over all ranks and chunks.
    float expected_gradient(const Place& at) const {
        float sum = own_share(at);
        for (const ContextBlock& block : all_blocks_) {
            const bool has_place = at.position >= block.tokens.begin &&
                                   at.position < block.tokens.end &&
                                   at.head >= block.kv_heads.begin && at.head < block.kv_heads.end;
            sum += has_place ? share(at, block) : 0.0F;
        }
        return sum;
    }

    Layout layout_;
    Heads heads_;
    bool wants_gradients_;
    Communicator<Cpu> world_ = Communicator<Cpu>::world();
    PhaseTimer timer_;
    Stream<Cpu> stream_;
    Arena<Cpu> arena_;
    ContextExchange<Cpu> exchange_;
    Buffer<Cpu, float> keys_values_;
    Buffer<Cpu, float> gradients_;
    std::vector<ContextBlock> all_blocks_;
    Index row_ = 0;
    Index wrong_values_ = 0;
    Index wrong_gradients_ = 0;
};

bool fits(const Layout& layout) {
    try {
        check_layout(layout);
    } catch (const Error&) {
        return false;
    }
    return true;
}

// Shards smaller than, equal to and larger than a half-group of 4 or 12 tokens, aligned and not.
template <class Check>
void for_layouts(const Check& check) {
    const std::vector<Heads> heads = {{4, 2}, {3, 1}, {9, 3}};
    const Index ranks = Communicator<Cpu>::world().size();
    std::size_t count = 0;
    for (const Index tokens : {2, 4, 6, 24}) {
        for (const Index chunks : {1, 2, 4}) {
            for (const Index group : {8, 24}) {
                for (const Pattern pattern :
                     {Pattern::s2, Pattern::local, Pattern::shifted, Pattern::full}) {
                    for (const Boundary boundary : {Boundary::truncate, Boundary::wrap}) {
                        const Layout layout{
                            tokens * ranks * chunks, group, ranks, chunks, pattern, boundary};
                        const bool is_repeated =
                            pattern == Pattern::full && (group > 8 || boundary == Boundary::wrap);
                        if (fits(layout) && !is_repeated) {
                            check(layout, heads[count++ % heads.size()]);
                        }
                    }
                }
            }
        }
    }
    BOOST_TEST(count > 50U);
}

}  // namespace

BOOST_AUTO_TEST_CASE(keys_and_values_arrive_and_their_gradients_come_back_whole) {
    for_layouts([](const Layout& layout, const Heads& heads) {
        Simulation simulation(layout, heads);
        simulation.run(0);
        // Bytes are counted where they are sent; the plan and the formula must agree with that.
        BOOST_TEST(simulation.sent_bytes() == simulation.foretold_bytes(), name(layout));
        simulation.exchange().reset_sent_bytes();
        BOOST_TEST(simulation.sent_bytes() == 0);
        simulation.run(1);  // nothing of the first row is left
        BOOST_TEST(simulation.wrong_values() == 0, name(layout));
        BOOST_TEST(simulation.wrong_gradients() == 0, name(layout));
    });
}

BOOST_AUTO_TEST_CASE(without_gradients_the_forward_is_the_same) {
    for (const Pattern pattern : {Pattern::s2, Pattern::full}) {
        for (const Index tokens : {3, 8}) {
            const Index ranks = Communicator<Cpu>::world().size();
            const Layout layout{.length = tokens * ranks * 4,
                                .group = 8,
                                .ranks = ranks,
                                .chunks = 4,
                                .pattern = pattern};
            Simulation simulation(layout, {3, 1}, false);
            simulation.run(2);
            BOOST_TEST(simulation.wrong_values() == 0, name(layout));
            BOOST_TEST(simulation.sent_bytes() == simulation.foretold_bytes(), name(layout));
        }
    }
}

// One rank after the other is late by more than a layer takes: nothing depends on luck.
BOOST_AUTO_TEST_CASE(a_late_rank_changes_nothing) {
    const auto world = Communicator<Cpu>::world();
    const Index ranks = world.size();
    for (int late = 0; late < world.size(); ++late) {
        const Layout layout{.length = 24 * ranks, .group = 8, .ranks = ranks, .chunks = 2};
        Simulation simulation(layout, {4, 2});
        simulation.exchange().set_observer([&](std::string_view event) {
            if (world.rank() == late && event == "send") {
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
            }
        });
        simulation.run(0);
        BOOST_TEST(simulation.wrong_values() == 0);
        BOOST_TEST(simulation.wrong_gradients() == 0);
    }
}
