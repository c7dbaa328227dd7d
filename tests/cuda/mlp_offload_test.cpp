#include "model/mlp_offload.hpp"

#include "core/error.hpp"
#include "cuda/device_matrix.hpp"
#include "kernels/elementwise.hpp"

using namespace longlora;
using namespace longlora::cuda_test;

namespace {

constexpr Index layers = 5;
constexpr Index tokens = 40;
constexpr Index columns = 24;
const MlpOffload<Cuda>::Shape shape{
    .tokens = {0, 32, 0, 16, 32}, .tile = 16, .columns = columns, .behind = 2};

// What gate (0) or up (1) of a layer's token is in a round: whole numbers that bfloat16 holds.
float number(Index round, Index layer, Index token, Index which, Index column) {
    return static_cast<float>((97 * round + 31 * layer + 5 * token + 3 * which + column) % 251);
}

Matrix numbers(Index round, Index layer, Range rows, Index which) {
    Matrix matrix(rows.size(), columns);
    for (Index r = 0; r < rows.size(); ++r) {
        for (Index c = 0; c < columns; ++c) {
            matrix.view()(r, c) = number(round, layer, rows.begin + r, which, c);
        }
    }
    return matrix;
}

// gate and up of a tile, beside those of the slots.
struct Copies {
    Index layer;
    Range rows;
    DeviceMatrix<Cuda, BFloat16> gate, up;
};

// All memory is taken before the first tile is kept, as taking it waits for the device; the work of the
// stream is that of products: nothing waits for it.
class Rounds {
public:
    Rounds() : arena_(memory()), offload_(arena_, shape) {}

    static Arena<Cuda> memory() {
        auto measuring = Arena<Cuda>::measuring("test");
        const MlpOffload<Cuda> sized(measuring, shape);
        return Arena<Cuda>("test", measuring.used());
    }

    std::vector<Copies> to_keep(Index round) const {
        std::vector<Copies> all;
        for (Index layer = 0; layer < layers; ++layer) {
            for (Index begin = 0; begin < tokens; begin += shape.tile) {
                const Range rows{begin, std::min(begin + shape.tile, tokens)};
                if (offload_.takes(layer, rows)) {
                    all.push_back({layer,
                                   rows,
                                   {stream_, numbers(round, layer, rows, 0)},
                                   {stream_, numbers(round, layer, rows, 1)}});
                }
            }
        }
        return all;
    }

    std::vector<Copies> to_fetch(const TokenPieces& pieces) const {
        std::vector<Copies> all;
        for (Index layer = layers - 1; layer >= 0; --layer) {
            pieces.for_each_tile(tokens, shape.tile, [&](Range rows) {
                if (offload_.takes(layer, rows)) {
                    all.push_back({layer,
                                   rows,
                                   {stream_, rows.size(), columns},
                                   {stream_, rows.size(), columns}});
                }
            });
        }
        return all;
    }

    void keep(const std::vector<Copies>& all) {
        for (const Copies& from : all) {
            const auto [gate, up] = offload_.begin_keep(stream_, from.rows);
            copy(stream_, Copy<Cuda, BFloat16>{.x = from.gate.view(), .out = gate});
            copy(stream_, Copy<Cuda, BFloat16>{.x = from.up.view(), .out = up});
            offload_.end_keep(stream_, from.layer, from.rows);
        }
    }

    void fetch(std::vector<Copies>& all, const TokenPieces& pieces) {
        offload_.begin_fetch(stream_, pieces, tokens);
        for (Copies& to : all) {
            const auto [gate, up] = offload_.fetch(stream_, to.layer, to.rows);
            copy(stream_, Copy<Cuda, BFloat16>{.x = gate, .out = to.gate.view()});
            copy(stream_, Copy<Cuda, BFloat16>{.x = up, .out = to.up.view()});
            // As gradients are formed where activations were.
            const auto other = nothing_.view().rows({0, to.rows.size()});
            copy(stream_, Copy<Cuda, BFloat16>{.x = other, .out = gate});
            copy(stream_, Copy<Cuda, BFloat16>{.x = other, .out = up});
            offload_.done(stream_);
        }
    }

    static void check(const std::vector<Copies>& all, Index round) {
        for (const Copies& found : all) {
            check(found.gate, numbers(round, found.layer, found.rows, 0), found);
            check(found.up, numbers(round, found.layer, found.rows, 1), found);
        }
    }

private:
    static void check(const DeviceMatrix<Cuda, BFloat16>& found, const Matrix& expected,
                      const Copies& at) {
        BOOST_TEST((floats(found.values()) == expected.values<float>()),
                   "layer " << at.layer << ", row " << at.rows.begin);
    }

    Stream<Cuda> stream_;
    Arena<Cuda> arena_;
    MlpOffload<Cuda> offload_;
    DeviceMatrix<Cuda, BFloat16> nothing_{stream_, shape.tile, columns};
};

}  // namespace

// Chunk after chunk; the tiles of backward need not be those of forward.
BOOST_AUTO_TEST_CASE(what_was_kept_comes_back) {
    Rounds rounds;
    const std::vector<TokenPieces> pieces = {{0, 8, 8}, {0, 10, 10}, {0, 16, 4}};
    const std::vector<std::size_t> tiles = {5, 7, 5};  // not beyond the tokens that wait
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        const auto round = static_cast<Index>(i);
        const std::vector<Copies> kept = rounds.to_keep(round);
        std::vector<Copies> fetched = rounds.to_fetch(pieces[i]);
        rounds.keep(kept);
        rounds.fetch(fetched, pieces[i]);
        Rounds::check(fetched, round);
        BOOST_TEST(kept.size() == 5U);
        BOOST_TEST(fetched.size() == tiles[i]);
    }
}

BOOST_AUTO_TEST_CASE(only_the_first_tokens_of_some_layers_wait) {
    Arena<Cuda> arena = Rounds::memory();
    const MlpOffload<Cuda> offload(arena, shape);
    BOOST_TEST(!offload.takes(0, {0, 16}));
    BOOST_TEST(offload.takes(1, {0, 16}));
    BOOST_TEST(offload.takes(layers - 1, {16, 32}));
    BOOST_TEST(!offload.takes(1, {30, 40}));
    BOOST_TEST(!offload.takes(2, {0, 16}));
    BOOST_TEST(!offload.takes(3, {16, 32}));
    BOOST_TEST(MlpOffload<Cuda>::host_bytes(shape) == 2U * (32 + 16 + 32) * 26 * 2);

    auto measuring = Arena<Cuda>::measuring("none");
    const MlpOffload<Cuda> none(measuring,
                                {.tokens = {0, 0, 0, 0}, .tile = 16, .columns = 8, .behind = 0});
    BOOST_TEST(!none.takes(0, {0, 0}));
    BOOST_TEST(measuring.used() == 0U);
}

BOOST_AUTO_TEST_CASE(an_order_that_was_not_announced_is_an_error) {
    const Stream<Cuda> stream;
    Arena<Cuda> arena = Rounds::memory();
    MlpOffload<Cuda> offload(arena, shape);
    offload.begin_fetch(stream, {0, 8, 8}, tokens);
    BOOST_CHECK_THROW(offload.fetch(stream, layers - 1, {16, 32}), Error);
}
