#include "plan/run_plan.hpp"

#include <algorithm>

#include <boost/test/unit_test.hpp>

#include "core/cuda_device.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "model/tiny_model.hpp"

using namespace longlora;
using namespace longlora::test;

namespace {

PlanRequest request() {
    return {.config = tiny_config(),
            .tune = tiny_tune(),
            .length = 512,
            .group = 128,
            .pattern = Pattern::s2,
            .boundary = Boundary::truncate};
}

}  // namespace

BOOST_AUTO_TEST_CASE(auto_takes_all_ranks_that_keep_shards_aligned) {
    const auto world = Communicator<Cpu>::world();
    const RunPlan plan = plan_run(request(), world);
    BOOST_TEST(plan.layout.ranks == world.size());  // 512 / 4 is a multiple of 64
    BOOST_TEST(plan.layout.chunks == 1);
    BOOST_TEST((plan.kept.policy == ActivationPolicy::keep));
    PlanRequest coarse = request();
    coarse.group = 512;  // half a group is 256: two aligned shards at most
    BOOST_TEST(plan_run(coarse, world).layout.ranks == std::min(world.size(), 2));
}

BOOST_AUTO_TEST_CASE(what_is_set_is_kept) {
    const auto world = Communicator<Cpu>::world();
    PlanRequest fixed = request();
    fixed.sequence_ranks = 1;
    fixed.chunks = 4;
    fixed.policy = ActivationPolicy::recompute_layer;
    const RunPlan plan = plan_run(fixed, world);
    BOOST_TEST(plan.layout.ranks == 1);
    BOOST_TEST(plan.layout.chunks == 4);
    BOOST_TEST((plan.kept.policy == ActivationPolicy::recompute_layer));
}

// A row that no memory holds is streamed; when nothing helps the message says what is missing.
BOOST_AUTO_TEST_CASE(too_little_memory_takes_chunks_and_then_an_error) {
    const auto world = Communicator<Cpu>::world();
    PlanRequest long_row = request();
    long_row.length = Index{1} << 31U;
    long_row.group = Index{1} << 16U;
    const RunPlan plan = plan_run(long_row, world);
    BOOST_TEST(plan.layout.chunks > 1);
    BOOST_TEST(plan.memory.total() <= plan.available);
    long_row.chunks = 1;
    BOOST_CHECK_EXCEPTION(plan_run(long_row, world), Error, [](const Error& error) {
        return std::string(error.what()).find("not enough memory") != std::string::npos;
    });
}

BOOST_AUTO_TEST_CASE(an_earlier_pick_that_does_not_divide_is_dropped) {
    const auto world = Communicator<Cpu>::world();
    PlanRequest earlier = request();
    earlier.sequence_ranks = 1;
    earlier.chunks = 3;
    BOOST_CHECK_THROW(plan_run(earlier, world), Error);
    earlier.chunks = 0;
    earlier.earlier_chunks = 3;
    BOOST_TEST(plan_run(earlier, world).layout.chunks == 1);
    earlier.earlier_chunks = 4;
    BOOST_TEST(plan_run(earlier, world).layout.chunks == 4);
    earlier.chunks = 2;  // an option beats it
    BOOST_TEST(plan_run(earlier, world).layout.chunks == 2);
}

// A run that was planned on eight ranks goes on on one.
BOOST_AUTO_TEST_CASE(an_earlier_pick_that_no_longer_fits_is_dropped) {
    const auto world = Communicator<Cpu>::world();
    PlanRequest long_row = request();
    long_row.length = Index{1} << 31U;
    long_row.group = Index{1} << 16U;
    long_row.earlier_chunks = 1;
    long_row.earlier_policy = ActivationPolicy::keep;
    const RunPlan plan = plan_run(long_row, world);
    BOOST_TEST(plan.layout.chunks > 1);
    BOOST_TEST(plan.memory.total() <= plan.available);

    PlanRequest short_row = request();
    short_row.earlier_policy = ActivationPolicy::recompute_layer;
    BOOST_TEST((plan_run(short_row, world).kept.policy == ActivationPolicy::recompute_layer));
}

// 4 chunks leave a rank's shard shorter than half a group, unless one rank has the whole chunk.
BOOST_AUTO_TEST_CASE(an_earlier_pick_that_takes_ranks_from_a_sequence_is_dropped) {
    const auto world = Communicator<Cpu>::world();
    PlanRequest streamed = request();
    streamed.group = 256;
    streamed.earlier_chunks = 4;
    const RunPlan plan = plan_run(streamed, world);
    BOOST_TEST(plan.layout.ranks == world.size());
    BOOST_TEST(plan.layout.chunks == (world.size() == 1 ? 4 : 1));
}

// Between memory for all layers' gate and up and memory for none of them, as many tiles stay as fit.
BOOST_AUTO_TEST_CASE(as_many_tiles_of_gate_and_up_are_kept_as_fit) {
    const auto world = Communicator<Cpu>::world();
    PlanRequest growing = request();
    growing.config.layers = 16;
    growing.chunks = 1;
    growing.length = Index{1} << 16U;
    RunPlan plan = plan_run(growing, world);
    while (plan.kept.policy == ActivationPolicy::keep) {
        growing.length += growing.length / 2048 * 128;
        plan = plan_run(growing, world);
    }
    BOOST_TEST((plan.kept.policy == ActivationPolicy::recompute_mlp));
    const Index tiles =
        layer_shape<Cpu>(growing.config, growing.tune, plan.layout.shard_length(), true)
            .mlp_tiles() *
        growing.config.layers;
    BOOST_TEST(plan.kept.tiles > 0);
    BOOST_TEST(plan.kept.tiles < tiles);
    // Of gate and up alone: what the process itself holds is another number each time one looks.
    const auto bytes = [&](Index kept) {
        const MemoryPlan memory = plan_memory<Cpu>(
            {growing.config, growing.tune, plan.layout, {ActivationPolicy::recompute_mlp, kept}},
            world.rank() % plan.layout.ranks, world.size());
        const auto part =
            std::find_if(memory.parts.begin(), memory.parts.end(),
                         [](const auto& named) { return named.first == "activations"; });
        return part->second;
    };
    const double planned = world.max(plan.memory.total());
    const double one_more = bytes(plan.kept.tiles + 1) - bytes(plan.kept.tiles);
    BOOST_TEST(one_more > 0);
    BOOST_TEST(planned <= plan.available * 1.001);
    BOOST_TEST(planned + one_more > plan.available * 0.999);
    BOOST_TEST(plan.recomputed_bytes == bytes(tiles) - bytes(plan.kept.tiles),
               boost::test_tools::tolerance(0.02));
    const double kept = static_cast<double>(plan.kept.tiles) / static_cast<double>(tiles);
    BOOST_TEST(plan.recomputed == 1 - kept, boost::test_tools::tolerance(0.01));
    BOOST_TEST(kept_text(plan) ==
               "recompute_mlp for " + format_number(100 * plan.recomputed, 3) + " % of tokens");

    growing.policy = ActivationPolicy::recompute_mlp;  // asked for: nothing more is kept
    growing.keeps_what_fits = false;
    BOOST_TEST(plan_run(growing, world).kept.tiles == 0);
    BOOST_TEST(kept_text(plan_run(growing, world)) == "recompute_mlp");
    growing.offload = 1e9;  // the host's memory is the CPU's
    BOOST_TEST(plan_run(growing, world).kept.offloaded == 0);
}

// The last tile of each layer is short, and stays first: of the others as many as fit beside those.
BOOST_AUTO_TEST_CASE(tiles_of_two_sizes_fill_the_memory) {
    const auto world = Communicator<Cpu>::world();
    PlanRequest uneven = request();
    uneven.config.mlp_width = 4096;  // tiles of 32 MiB: what others take meanwhile is less
    uneven.chunks = 1;
    uneven.sequence_ranks = 1;
    uneven.policy = ActivationPolicy::recompute_mlp;
    const Index tile = layer_shape<Cpu>(uneven.config, uneven.tune, 1 << 20, true).mlp_tile;
    uneven.length = 2 * tile + 128;
    const auto total = [&](Index tiles) {
        const Layout layout{uneven.length, uneven.group, 1, 1, uneven.pattern, uneven.boundary};
        return plan_memory<Cpu>(
                   {uneven.config, uneven.tune, layout, {ActivationPolicy::recompute_mlp, tiles}},
                   0, world.size())
            .total();
    };
    const Index all = 3 * uneven.config.layers;
    for (Index tiles = 1; tiles < all; ++tiles) {
        uneven.besides.clear();
        const double room = plan_run(uneven, world).available;
        uneven.besides = {{"ballast", room - (total(tiles) + total(tiles + 1)) / 2}};
        const RunPlan plan = plan_run(uneven, world);
        const double one_more = total(plan.kept.tiles + 1) - total(plan.kept.tiles);
        BOOST_TEST(plan.kept.tiles > 0);
        BOOST_TEST(plan.memory.total() <= plan.available);
        BOOST_TEST(plan.memory.total() + one_more > plan.available);
    }
}

#ifdef LONGLORA_CUDA_EMULATED
// As Slurm gives them out by --gpus-per-task: each rank of a host sees one, of its own.
BOOST_AUTO_TEST_CASE(ranks_share_the_memory_of_a_gpu_not_of_a_host) {
    const auto world = Communicator<Cpu>::world();
    PlanRequest on_gpu = request();
    on_gpu.device = DeviceKind::cuda;
    const double shared = plan_run(on_gpu, world).available;
    setenv("LONGLORA_EMULATOR_OWN_DEVICE", "1", 1);
    const double own = plan_run(on_gpu, world).available;
    unsetenv("LONGLORA_EMULATOR_OWN_DEVICE");
    BOOST_TEST(own == world.size() * shared, boost::test_tools::tolerance(1e-9));
}
#endif

BOOST_AUTO_TEST_CASE(memory_for_what_lies_besides_is_left) {
    const auto world = Communicator<Cpu>::world();
    PlanRequest evaluating = request();
    evaluating.chunks = 1;
    const RunPlan without = plan_run(evaluating, world);
    evaluating.besides = {{"evaluation", 1e6}};
    evaluating.besides_on_host = 2e6;
    const RunPlan with = plan_run(evaluating, world);
    BOOST_TEST(with.memory.total() == without.memory.total() + 1e6);
    BOOST_TEST(with.memory.host == without.memory.host + 2e6);
    evaluating.besides[0].second = 1e18;  // what is available differs from one look to the next
    BOOST_CHECK_THROW(plan_run(evaluating, world), Error);
}

#ifdef LONGLORA_CUDA
// Kept K/V of 2^33 tokens: a TiB.
BOOST_AUTO_TEST_CASE(too_little_memory_of_the_host_is_called_that) {
    if (cuda_device_count() == 0) {
        BOOST_TEST_MESSAGE("skipped: this process sees no GPU");
        return;
    }
    const auto world = Communicator<Cpu>::world();
    PlanRequest streamed = request();
    streamed.device = DeviceKind::cuda;
    streamed.sequence_ranks = 1;
    streamed.group = Index{1} << 20U;
    streamed.chunks = Index{1} << 13U;
    streamed.length = streamed.chunks * streamed.group;
    BOOST_CHECK_EXCEPTION(plan_run(streamed, world), Error, [](const Error& error) {
        return std::string(error.what()).find("of its host's memory") != std::string::npos;
    });
}

// The most whole tiles that the given memory holds; of these sizes a layer has two, four are all.
BOOST_AUTO_TEST_CASE(a_gpu_may_offload_what_it_has_no_room_for) {
    if (cuda_device_count() == 0) {
        BOOST_TEST_MESSAGE("skipped: this process sees no GPU");
        return;
    }
    const auto world = Communicator<Cpu>::world();
    PlanRequest offloading = request();
    offloading.device = DeviceKind::cuda;
    offloading.sequence_ranks = 1;
    offloading.policy = ActivationPolicy::recompute_mlp;
    offloading.keeps_what_fits = false;
    offloading.length = Index{1} << 14U;
    const auto offloaded = [&](double share) {
        const auto& config = offloading.config;
        const Index columns =
            config.mlp_width + layer_shape<Cuda>(config, offloading.tune, 1, true).mlp_fold;
        const Index elements = 2 * offloading.length * config.layers * columns;
        offloading.offload = share * static_cast<double>(2 * elements);
        return plan_run(offloading, world).kept.offloaded;
    };
    BOOST_TEST(offloaded(0) == 0);
    BOOST_TEST(offloaded(0.24) == 0);
    BOOST_TEST(offloaded(0.26) == 1);
    BOOST_TEST(offloaded(0.51) == 2);
    BOOST_TEST(kept_text(plan_run(offloading, world)) ==
               "recompute_mlp for 50 % of tokens, 50 % offloaded");
    BOOST_TEST(offloaded(1) == 4);
    BOOST_TEST(kept_text(plan_run(offloading, world)) ==
               "recompute_mlp for 0 % of tokens, 100 % offloaded");
}
#endif
