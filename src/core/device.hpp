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

// Whether this build has the CUDA devices.
#if LONGLORA_CUDA
constexpr bool has_cuda = true;
#else
constexpr bool has_cuda = false;
#endif

enum class DeviceKind { cpu, cuda, cuda_float };

// Calls work(Device{}) for the device that was chosen; a build without CUDA has the CPU alone.
template <class Work>
auto on_device(DeviceKind kind, const Work& work) {
    if constexpr (has_cuda) {
        if (kind == DeviceKind::cuda) {
            return work(Cuda{});
        }
        if (kind == DeviceKind::cuda_float) {
            return work(CudaFloat{});
        }
    }
    return work(Cpu{});
}

}  // namespace longlora

// The only list of devices: declare(Device) for each that this build has; a class template of each.
#if LONGLORA_CUDA
#define LONGLORA_FOR_EACH_DEVICE(declare) declare(Cpu) declare(Cuda) declare(CudaFloat)
#define LONGLORA_INSTANTIATE(name)         \
    template class name<::longlora::Cpu>;  \
    template class name<::longlora::Cuda>; \
    template class name<::longlora::CudaFloat>
#else
#define LONGLORA_FOR_EACH_DEVICE(declare) declare(Cpu)
#define LONGLORA_INSTANTIATE(name) template class name<::longlora::Cpu>
#endif
