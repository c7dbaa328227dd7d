#pragma once

#include <optional>

#include "train/optimizer.hpp"
#include "train/run_folder.hpp"

namespace longlora {

// Collective: weights and moments from the newest intact checkpoint of the folder, if there is one.
// Damaged ones are passed over with a warning.
template <class Device>
std::optional<LoadedCheckpoint> load_trainables(const Stream<Device>& stream,
                                                Parameters<Device>& parameters,
                                                Optimizer<Device>& optimizer,
                                                const RunFolder& folder,
                                                const Communicator<Device>& world);

}  // namespace longlora
