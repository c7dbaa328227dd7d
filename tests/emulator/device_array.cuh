#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "core/cuda_check.hpp"
#include "kernels/cuda/launch.cuh"

// What the tests of the emulator share; it also compiles for a GPU.
namespace longlora {

inline void check(cudaError_t status) { cuda_check(status, "test"); }

// An array on the GPU.
template <class T>
class Array {
public:
    explicit Array(std::size_t size) : size_(size) { check(cudaMalloc(&data_, size * sizeof(T))); }
    explicit Array(const std::vector<T>& values) : Array(values.size()) {
        check(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
    }
    ~Array() { cudaFree(data_); }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;

    T* data() const { return data_; }
    std::vector<T> values() const {
        std::vector<T> result(size_);
        check(cudaMemcpy(result.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
        return result;
    }

private:
    T* data_ = nullptr;
    std::size_t size_;
};

template <class T>
std::vector<T> count_up(std::size_t size) {
    std::vector<T> result(size);
    std::iota(result.begin(), result.end(), T{0});
    return result;
}

inline const CudaStream& test_stream() {
    static const CudaStream stream;  // its workspace is large
    return stream;
}

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), const Grid& grid, const Arguments&... arguments) {
    launch(test_stream(), kernel, grid, arguments...);
    test_stream().synchronize();
}

// Runs `test` in the usual order of threads and in some others.
template <class Test>
void in_any_order(const Test& test) {
    test();
#if LONGLORA_CUDA_EMULATED
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
        emulator::set_order(seed);
        test();
    }
    emulator::set_order({});
#endif
}

}  // namespace longlora
