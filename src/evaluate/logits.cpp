#include "evaluate/logits.hpp"

#include <algorithm>
#include <vector>

#include "comm/agree.hpp"
#include "comm/environment.hpp"
#include "comm/mesh.hpp"
#include "core/host_copy.hpp"
#include "evaluate/window_memory.hpp"
#include "io/durable.hpp"
#include "io/hdf5.hpp"

namespace longlora {
namespace {

template <class Device>
std::vector<float> logits_of(const Llama<Device>& model, LayerRun<Device>& run,
                             View<Device, const float, 2> last) {
    std::vector<float> logits;
    const Index tile_rows = run.scratch.head.logits.rows();
    for (Index begin = 0; begin < last.rows(); begin += tile_rows) {
        const Range rows{begin, std::min(last.rows(), begin + tile_rows)};
        HostCopy tile(run.stream, model.logits(run, last.rows(rows)).flat());
        logits.insert(logits.end(), tile.values().begin(), tile.values().end());
    }
    return logits;
}

void write_logits(const std::string& path, std::span<const std::int32_t> tokens,
                  std::span<const float> logits) {
    const auto count = static_cast<Index>(tokens.size());
    const auto size = static_cast<Index>(logits.size());
    make_folders(folder_of(path));
    UnfinishedFile unfinished(path);
    Hdf5File file = Hdf5File::create(unfinished.path());
    file.create_dataset("/tokens", {.type = Hdf5Type::int32, .shape = {count}})
        .write(Range{0, count}, tokens);
    file.create_dataset("/logits", {.type = Hdf5Type::float32, .shape = {count, size / count}})
        .write(Range{0, size}, logits);
    file.close();
    unfinished.publish();
}

}  // namespace

template <class Device>
void dump_logits(const LogitsTask& task, const Llama<Device>& model, const Tune& tune,
                 const TokenStream& data, const Stream<Device>& stream) {
    const LlamaConfig& config = model.config();
    const Mesh<Device> mesh(1);
    const Layout layout{task.context, 0, 1, 1, Pattern::full, Boundary::truncate};
    Arena<Device> arena("logits", WindowMemory<Device>::bytes(config, tune, layout, 0).arena);
    WindowMemory<Device> memory(arena, config, tune, layout, 0);
    PhaseTimer timer;
    memory.exchange.connect(mesh.sequence(), timer);
    memory.exchange.begin_chunk(0, Pass::compute);
    model.set_position(stream, memory.scratch, 0);
    agree([&] {
        HostCopy<Device, std::int32_t> tokens(memory.tokens);
        data.read({0, task.context}, tokens.values());
        tokens.write_back(stream);
        LayerRun<Device> run{stream, memory.scratch, {}, static_cast<float>(config.rms_epsilon)};
        model.forward_only(run, {memory.tokens, memory.tokens}, memory.activations,
                           memory.exchange);
        const auto logits = logits_of<Device>(model, run, memory.activations.residual());
        if (world_rank() == 0) {
            write_logits(task.path, tokens.values(), logits);
        }
    });
}

#define LONGLORA_INSTANTIATE_FUNCTION(Device)                                       \
    template void dump_logits(const LogitsTask&, const Llama<Device>&, const Tune&, \
                              const TokenStream&, const Stream<Device>&);
LONGLORA_FOR_EACH_DEVICE(LONGLORA_INSTANTIATE_FUNCTION)

}  // namespace longlora
