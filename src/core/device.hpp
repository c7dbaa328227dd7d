#pragma once

// The device is a type: a host view cannot reach a CUDA kernel, and nothing asks at run time.
namespace longlora {

struct Cpu {};

// Storage type of frozen weights and activations. The residual stream, trainables, gradients,
// moments and every accumulation are float on each device.
template <class Device>
struct ElementOf;
template <>
struct ElementOf<Cpu> {
    using type = float;
};
template <class Device>
using Element = typename ElementOf<Device>::type;

}  // namespace longlora

// Instantiates a class template for each device that this build has: the only list of devices.
#define LONGLORA_INSTANTIATE(name) template class name<::longlora::Cpu>
