#pragma once

// Which kernels attention takes. Each has what suits it; where it does not, the next one below serves.
namespace longlora {

enum class AttentionKernels {
    automatic,       // the first below that the device has
    hopper,          // wgmma and TMA: compute capability 9, heads 64 or 128 wide
    hopper_in_turn,  // the same, nothing overlapped: forward by steps, backward a tile a block
    tensor_cores,    // mma: heads 16, 32, ... 128 wide
    simple           // float, any operands
};

// For tests and measurements, of the whole process; automatic at first.
void choose_attention_kernels(AttentionKernels kernels);
AttentionKernels chosen_attention_kernels();

bool may_use_hopper();
bool may_use_tensor_cores();

}  // namespace longlora
