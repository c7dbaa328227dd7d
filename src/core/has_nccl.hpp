#pragma once

namespace longlora {

// Whether this build has NCCL, for messages between GPUs. The library itself is looked for when it is
// needed.
#if LONGLORA_NCCL
constexpr bool has_nccl = true;
#else
constexpr bool has_nccl = false;
#endif

}  // namespace longlora
