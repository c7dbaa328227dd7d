#pragma once

#include <cstdint>

#include "core/stream.hpp"

// out[i] = deviation n(key, i), n standard normal by Box-Muller (core/random.hpp), computed in double and
// rounded once: the same for any number of threads. A GPU's log and cos may differ in the last bit of
// a double, so that a value in some millions is the float beside the CPU's.
namespace longlora {

template <class Device, class T = float>
struct RandomNormal {
    std::uint64_t key;
    double deviation;
    View<Device, T, 1> out;
};

void random_normal(const Stream<Cpu>& stream, const RandomNormal<Cpu>& op);
template <class S>
void random_normal(const Stream<CudaDevice<S>>& stream,
                   const RandomNormal<CudaDevice<S>, float>& op);
template <class S>
void random_normal(const Stream<CudaDevice<S>>& stream,
                   const RandomNormal<CudaDevice<S>, BFloat16>& op);

}  // namespace longlora
