#pragma once

#include "core/stream.hpp"

// out = alpha op(a) op(b) + beta out,   op(x) = x or x'
// Parameter gradients accumulate (beta = 1), activation gradients overwrite unless the line says so.
namespace longlora {

template <class Device, class T>
struct Operand {
    View<Device, const T, 2> view;
    bool is_transposed = false;

    Operand(View<Device, const T, 2> v, bool transposed = false)
        : view(v), is_transposed(transposed) {}
    Operand(View<Device, T, 2> v) : view(v) {}
    Index rows() const { return is_transposed ? view.columns() : view.rows(); }
    Index columns() const { return is_transposed ? view.rows() : view.columns(); }
};

template <class Device, class T>
Operand<Device, std::remove_const_t<T>> transposed(View<Device, T, 2> view) {
    return {view, true};
}

template <class Device, class A = Element<Device>, class B = Element<Device>, class Out = float>
struct Matmul {
    Operand<Device, A> a;      // (M, K)
    Operand<Device, B> b;      // (K, N)
    View<Device, Out, 2> out;  // (M, N)
    float alpha = 1;
    float beta = 0;
};

void matmul(const Stream<Cpu>& stream, const Matmul<Cpu>& op);
template <class S>
void matmul(const Stream<CudaDevice<S>>& stream, const Matmul<CudaDevice<S>, S, S, float>& op);
template <class S>
void matmul(const Stream<CudaDevice<S>>& stream, const Matmul<CudaDevice<S>, S, S, BFloat16>& op);

// Bytes that a product with so deep and so wide a right operand takes on the CPU beside its operands, and
// the next one again; BLAS's are not known.
std::size_t cpu_matmul_bytes(Index depth, Index columns);

// Opens the library that multiplies on the GPU in use, so that a machine without it is told at the
// start (Error, exit code 1) and not after the weights have been read. Nothing where there is no CUDA.
void prepare_cuda_matmul();

// Whether the bits of a row of the result depend on its operands alone, and not on how many rows are
// multiplied with it; so on machines with vectors of 8 floats, elsewhere BLAS decides.
bool matmul_rows_are_independent();

}  // namespace longlora
