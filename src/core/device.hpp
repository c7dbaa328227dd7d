#pragma once

#include "core/bfloat16.hpp"

// The device is a type: a host view cannot reach a CUDA kernel, and nothing asks at run time.
namespace longlora {

struct Cpu {};

// A GPU of NVIDIA's, which stores frozen weights and activations as `Storage`.
template <class Storage>
struct CudaDevice {};
using Cuda = CudaDevice<BFloat16>;
using CudaFloat = CudaDevice<float>;  // to compare with the CPU

// Storage type of frozen weights and activations. The residual stream, trainables, gradients,
// moments and every accumulation are float on each device.
template <class Device>
struct ElementOf;
template <>
struct ElementOf<Cpu> {
    using type = float;
};
template <class Storage>
struct ElementOf<CudaDevice<Storage>> {
    using type = Storage;
};
template <class Device>
using Element = typename ElementOf<Device>::type;

}  // namespace longlora

// Instantiates a class template for each device that this build has: the only list of devices.
#if LONGLORA_CUDA
#define LONGLORA_INSTANTIATE(name)         \
    template class name<::longlora::Cpu>;  \
    template class name<::longlora::Cuda>; \
    template class name<::longlora::CudaFloat>
#else
#define LONGLORA_INSTANTIATE(name) template class name<::longlora::Cpu>
#endif
