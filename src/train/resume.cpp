#include "train/resume.hpp"

#include "core/host_copy.hpp"
#include "core/terminal.hpp"

namespace longlora {

template <class Device>
std::optional<LoadedCheckpoint> load_trainables(const Stream<Device>& stream,
                                                Parameters<Device>& parameters,
                                                Optimizer<Device>& optimizer,
                                                const RunFolder& folder,
                                                const Communicator<Device>& world) {
    const Range mine = optimizer.range();
    HostCopy<Device, float> weights(parameters.weights().slice(mine));
    HostCopy<Device, float> first(optimizer.first_moment());
    HostCopy<Device, float> second(optimizer.second_moment());
    const CheckpointPart<float> part{mine, weights.values(), first.values(), second.values()};
    auto loaded =
        load_newest_checkpoint(folder.checkpoints(), checkpoint_tensors(parameters.table()), part,
                               [](const std::string& text) { warn(text); });
    if (loaded) {
        weights.write_back(stream);
        first.write_back(stream);
        second.write_back(stream);
        world.all_gather(stream, parameters.weights(), optimizer.pieces());
    }
    return loaded;
}

#define LONGLORA_INSTANTIATE_FUNCTION(Device)                                             \
    template std::optional<LoadedCheckpoint> load_trainables(                             \
        const Stream<Device>&, Parameters<Device>&, Optimizer<Device>&, const RunFolder&, \
        const Communicator<Device>&);
LONGLORA_FOR_EACH_DEVICE(LONGLORA_INSTANTIATE_FUNCTION)

}  // namespace longlora
