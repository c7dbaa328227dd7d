#include "kernels/cuda/attention_choice.hpp"

#include <atomic>

#include "core/cuda_check.hpp"

namespace longlora {
namespace {

std::atomic<AttentionKernels> chosen{AttentionKernels::automatic};

// Code for sm_90a runs on compute capability 9.0 alone.
bool is_hopper() {
    int device = 0;
    int major = 0;
    int minor = 0;
    cuda_check(cudaGetDevice(&device), "ask for the device");
    cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
               "describe a device");
    cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
               "describe a device");
    return major == 9 && minor == 0;
}

}  // namespace

void choose_attention_kernels(AttentionKernels kernels) { chosen = kernels; }
AttentionKernels chosen_attention_kernels() { return chosen; }

bool may_use_hopper() { return chosen < AttentionKernels::tensor_cores && is_hopper(); }
bool may_use_tensor_cores() { return chosen != AttentionKernels::simple; }

}  // namespace longlora
