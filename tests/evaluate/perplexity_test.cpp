#include "evaluate/perplexity.hpp"

#include <cmath>

#include <boost/test/unit_test.hpp>

#include "comm/environment.hpp"
#include "core/error.hpp"
#include "model/tiny_model.hpp"

using namespace longlora;
using namespace longlora::test;

namespace {

constexpr Index stream_tokens = 97;

// The same stream of tokens on each rank, as a flat file of uint16.
struct Stream16 {
    explicit Stream16(Index vocabulary) {
        std::string bytes;
        for (Index i = 0; i < stream_tokens; ++i) {
            const auto token = static_cast<char>(random_bits(4, static_cast<std::uint64_t>(i)) %
                                                 static_cast<std::uint64_t>(vocabulary));
            bytes += {token, '\0'};
        }
        write_file(path(), bytes);
    }
    std::string path() const { return folder / "tokens.bin"; }

    TemporaryFolder folder;
};

// Loss of label j of the stream with the tokens from `begin` on as context: one forward alone, on
// this rank.
double label_loss(const TinyModel& model, const TokenStream& data, Index begin, Index label) {
    const Index count = label - begin;
    const auto world = Communicator<Cpu>::world();
    const auto alone = world.split(world.rank(), 0);
    const Layout layout{count, 0, 1, 1, Pattern::full, Boundary::truncate};
    const LayerShape shape = layer_shape<Cpu>(model.config, model.tune, count, false);
    Arena<Cpu> arena("test", 1U << 22U);
    ContextExchange<Cpu> exchange(
        arena, {layout, {4, 2}, model.config.head_dim, model.config.layers, false}, 0);
    const Activations<Cpu> activations(arena, shape, ActivationPolicy::recompute_layer);
    Scratch<Cpu> scratch(arena, shape);
    PhaseTimer timer;
    exchange.connect(alone, timer);
    exchange.begin_chunk(0, Pass::compute);
    model.llama.set_position(Stream<Cpu>(), scratch, 0);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
    std::vector<std::int32_t> labels(static_cast<std::size_t>(count));
    data.read({begin, label}, tokens);
    data.read_labels({begin + 1, label + 1}, labels);
    const View<Cpu, const std::int32_t, 1> token_view(tokens.data(), count);
    const View<Cpu, const std::int32_t, 1> label_view(labels.data(), count);
    const Stream<Cpu> stream;
    LayerRun<Cpu> run{stream, scratch, {}, static_cast<float>(model.config.rms_epsilon)};
    model.llama.forward_only(run, {token_view, label_view}, activations, exchange);
    const Range last{count - 1, count};
    return model.llama.loss(run,
                            {activations.residual().rows(last), label_view.slice(last), 1, false});
}

}  // namespace

BOOST_AUTO_TEST_CASE(windows_score_every_label_once_and_all_contexts_the_same) {
    for (const Index context : {8, 16, 64}) {
        for (const Index stride : {0, 1, 5, 8, 1000}) {
            Index next = 1;  // the label that is to be scored next
            for (const Window& window : sliding_windows(context, stride, 96)) {
                BOOST_TEST(window.tokens.size() == context);
                BOOST_TEST(window.scored.end == context);
                BOOST_TEST(window.tokens.begin + window.scored.begin + 1 == next);
                next = window.tokens.end + 1;
            }
            BOOST_TEST(next == 97);
        }
    }
}

// get_as_batch of the LongLoRA authors, tried with numpy: range(0, len(data) - context, stride)
// without its last; here `scored` is len(data) - 1.
BOOST_AUTO_TEST_CASE(longlora_windows_start_where_the_authors_start_theirs) {
    const auto begins = [](Index context, Index stride, Index scored) {
        std::vector<Index> result;
        for (const Window& window : longlora_windows(context, stride, scored)) {
            BOOST_TEST(window.tokens.size() == context);
            BOOST_TEST((window.scored == Range{0, context - 1}));
            result.push_back(window.tokens.begin);
        }
        return result;
    };
    BOOST_TEST((begins(8, 4, 19) == std::vector<Index>{0, 4}));
    BOOST_TEST((begins(8, 4, 20) == std::vector<Index>{0, 4, 8}));
    BOOST_TEST((begins(8, 3, 8) == std::vector<Index>{0}));  // the only one stays
    BOOST_TEST((begins(8, 0, 16) == std::vector<Index>{0, 4}));
}

BOOST_AUTO_TEST_CASE(a_window_of_half_a_group_is_full_attention) {
    const Visibility s2{Pattern::s2, 32, Boundary::truncate};
    BOOST_TEST((window_layout(16, 2, s2, 64).pattern == Pattern::full));
    BOOST_TEST((window_layout(32, 2, s2, 64) == Layout{32, 32, 2, 1, Pattern::s2}));
    BOOST_TEST(window_layout(64, 1, {Pattern::s2, 0, Boundary::truncate}, 64).group == 16);
    BOOST_CHECK_THROW(window_layout(40, 1, s2, 64), Error);
}

BOOST_AUTO_TEST_CASE(a_long_window_runs_in_chunks_of_aligned_shards) {
    const auto chunks = [](Index context, Index ranks, const Visibility& visibility = {}) {
        return window_layout(context, ranks, visibility, 8192).chunks;
    };
    BOOST_TEST(chunks(8192, 1) == 1);
    BOOST_TEST(chunks(8193, 1) == 3);
    BOOST_TEST(chunks(131072, 2) == 8);
    BOOST_TEST(chunks(65537, 1) == 1);  // a prime
    BOOST_TEST(chunks(131072, 2, {Pattern::s2, 8192, Boundary::truncate}) == 8);
    BOOST_TEST(chunks(131072, 2, {Pattern::s2, 32768, Boundary::truncate}) == 1);
    BOOST_TEST(chunks(131072, 2, {Pattern::s2, 8192, Boundary::wrap}) == 1);
}

// Each label with just the context that its window gives it, one forward a label.
BOOST_AUTO_TEST_CASE(perplexity_is_that_of_label_by_label) {
    const TinyModel model(tiny_config(), tiny_tune());
    const Stream16 file(model.config.vocabulary);
    const TokenStream data(file.path(), model.config.vocabulary);
    using Case = std::pair<Scoring, Index>;
    for (const auto& [scoring, most_tokens] :
         {Case{Scoring::sliding, 8192}, Case{Scoring::sliding, 4}, Case{Scoring::longlora, 8}}) {
        PerplexityEvaluator<Cpu> evaluator(model.config, model.tune, most_tokens);
        const auto windows_of = scoring == Scoring::sliding ? sliding_windows : longlora_windows;
        const auto results =
            evaluator.run(model.llama, data, {{8, 24}, 4, 0, scoring}, Stream<Cpu>());
        BOOST_TEST(results.size() == 2U);
        for (const Perplexity& result : results) {
            double loss = 0;
            Index scored = 0;
            for (const Window& window : windows_of(result.context, 4, stream_tokens - 1)) {
                for (Index row = window.scored.begin; row < window.scored.end; ++row, ++scored) {
                    loss +=
                        label_loss(model, data, window.tokens.begin, window.tokens.begin + row + 1);
                }
            }
            BOOST_TEST(result.scored == scored);
            BOOST_TEST(result.value == std::exp(loss / static_cast<double>(scored)),
                       boost::test_tools::tolerance(1e-5));
        }
    }
}

BOOST_AUTO_TEST_CASE(a_stream_shorter_than_the_context_is_refused) {
    const TinyModel model(tiny_config(), tiny_tune());
    const Stream16 file(model.config.vocabulary);
    const TokenStream data(file.path(), model.config.vocabulary);
    BOOST_CHECK_THROW(scored_labels({{stream_tokens}, 0, 0}, data), Error);
    BOOST_TEST(scored_labels({{8, 32}, 0, 10}, data) == 32);
    BOOST_TEST(scored_labels({{8}, 0, 50}, data) == 50);
}
