#include "train/resume.hpp"

#include "core/terminal.hpp"

namespace longlora {

template <class Device>
std::optional<LoadedCheckpoint> load_trainables(Parameters<Device>& parameters,
                                                Optimizer<Device>& optimizer,
                                                const RunFolder& folder,
                                                const Communicator<Device>& world) {
    const auto span = [](View<Device, float, 1> view) {
        return std::span<float>(view.data(), static_cast<std::size_t>(view.size()));
    };
    const Range mine = optimizer.range();
    const CheckpointPart<float> part{mine, span(parameters.weights().slice(mine)),
                                     span(optimizer.first_moment()),
                                     span(optimizer.second_moment())};
    auto loaded =
        load_newest_checkpoint(folder.checkpoints(), checkpoint_tensors(parameters.table()), part,
                               [](const std::string& text) { warn(text); });
    if (loaded) {
        world.all_gather(parameters.weights(), optimizer.pieces());
    }
    return loaded;
}

template std::optional<LoadedCheckpoint> load_trainables(Parameters<Cpu>&, Optimizer<Cpu>&,
                                                         const RunFolder&,
                                                         const Communicator<Cpu>&);

}  // namespace longlora
