#include "plan/memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <type_traits>

#include "core/cuda_device.hpp"
#include "kernels/matmul.hpp"
#include "model/context_exchange.hpp"
#include "model/parameters.hpp"
#include "model/weight_store.hpp"
#include "plan/host_memory.hpp"

namespace longlora {
namespace {

// What BLAS, MPI and HDF5 take once they are used (measured: 6 to 11 MB a rank with OpenBLAS 0.3.21,
// Open MPI 4.1 and HDF5 1.10, on 1 to 4 ranks with 0.2 to 11 million trainables).
constexpr double library_buffers = 9e6;

// What MPI, HDF5 and the program itself hold by now.
double measured_resident_bytes() {
    std::ifstream statm("/proc/self/statm");
    double size = 0;
    double resident = 0;
    statm >> size >> resident;
    return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

// When it was first asked for: plans are compared, so they must not differ by what planning itself takes.
double resident_bytes() {
    static const double bytes = measured_resident_bytes();
    return bytes;
}

// Of the products with the largest operands: the head's and the MLP's, forward and backward.
double matmul_bytes(const LlamaConfig& config) {
    std::size_t most = 0;
    for (const Index wide : {config.vocabulary, config.mlp_width}) {
        most = std::max(
            {most, cpu_matmul_bytes(config.width, wide), cpu_matmul_bytes(wide, config.width)});
    }
    return static_cast<double>(most);
}

}  // namespace

double MemoryPlan::total() const {
    double sum = 0;
    for (const auto& part : parts) {
        sum += part.second;
    }
    return sum;
}

// Process and libraries: they lie on the host, and on a GPU beside what arenas take.
template <class Device>
double other_bytes(const LlamaConfig& config) {
    if constexpr (std::is_same_v<Device, Cpu>) {
        return resident_bytes() + library_buffers + matmul_bytes(config);
    } else {
        return static_cast<double>(CudaStream::workspace_bytes);
    }
}

template <class Device>
MemoryPlan plan_memory(const Workload& work, Index sequence_rank, int world) {
    const LlamaConfig& config = work.config;
    const Tune& tune = work.tune;
    const Layout& layout = work.layout;
    MemoryPlan plan;
    const auto trainables = trainable_parameters(config, tune);
    const auto flat = static_cast<double>(flat_size(trainables));
    plan.parts.emplace_back("program and libraries", other_bytes<Device>(config));
    plan.parts.emplace_back("frozen weights",
                            static_cast<double>(WeightStore<Device>::bytes(config, tune)));
    plan.parts.emplace_back("trainables and gradients",
                            static_cast<double>(Parameters<Device>::bytes(trainables)));
    // Two moments and the rank's share of the summed gradient.
    plan.parts.emplace_back("moments, sharded", std::ceil(3 * sizeof(float) * flat / world));

    const auto measured = [&](const char* name, const auto& allocate) {
        auto arena = Arena<Device>::measuring(name);
        allocate(arena);
        plan.parts.emplace_back(name, static_cast<double>(arena.used()));
    };
    const LayerShape shape = layer_shape<Device>(config, tune, layout.shard_length(), true);
    measured("activations", [&](Arena<Device>& arena) {
        const Activations<Device> sized(arena, shape, work.kept);
        const auto offload = offload_shape<Device>(shape, work.kept);
        const MlpOffload<Device> slots(arena, offload);
        plan.host += static_cast<double>(MlpOffload<Device>::host_bytes(offload));
    });
    measured("working memory",
             [&](Arena<Device>& arena) { const Scratch<Device> sized(arena, shape); });
    measured("left context and kept K/V", [&](Arena<Device>& arena) {
        const Heads heads{config.heads, config.kv_heads};
        const ContextExchange<Device> sized(
            arena, {layout, heads, config.head_dim, config.layers, true}, sequence_rank);
        plan.host += static_cast<double>(sized.host_bytes());
    });
    return plan;
}

template <class Device>
double available_memory(int sharing) {
    if constexpr (std::is_same_v<Device, Cpu>) {
        return 0.9 * available_host_memory() / sharing;
    } else {
        return 0.97 * static_cast<double>(free_cuda_memory()) / sharing;  // the runtime takes some
    }
}

#define LONGLORA_INSTANTIATE_FUNCTIONS(Device)                            \
    template MemoryPlan plan_memory<Device>(const Workload&, Index, int); \
    template double available_memory<Device>(int);
LONGLORA_FOR_EACH_DEVICE(LONGLORA_INSTANTIATE_FUNCTIONS)

}  // namespace longlora
