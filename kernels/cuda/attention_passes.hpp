#pragma once

#include "kernels/attention.hpp"
#include "kernels/cuda/attention_work.hpp"

// The kernels of attention, for tiles of one round. attention.cu chooses among them.
namespace longlora {

// Tensor cores, bfloat16. False, and nothing is done, where the operands do not suit: heads must be 16,
// 32, ... 128 wide, rows of q, k, v, out and d_out aligned to 16 bytes, those of gradients to 8.
bool attend_by_tensor_cores(const Stream<Cuda>& stream, const AttentionForward<Cuda>& op,
                            const AttentionWork& work);
bool add_query_gradients_by_tensor_cores(const Stream<Cuda>& stream,
                                         const AttentionBackward<Cuda>& op,
                                         const AttentionWork& work);
bool add_key_gradients_by_tensor_cores(const Stream<Cuda>& stream,
                                       const AttentionBackward<Cuda>& op,
                                       const AttentionWork& work);

namespace hopper {

// wgmma and TMA, bfloat16, on compute capability 9.0. False, and nothing is done, where the operands do
// not suit: heads must be 64 or 128 wide, rows of q, k, v and out aligned to 16 bytes. Whether products
// and softmax overlap shows in no bit of the results.
bool attend(const Stream<Cuda>& stream, const AttentionForward<Cuda>& op, bool overlaps);
// The same, rows of d_out aligned to 16 bytes, too, those of gradients to 8. Each sum is formed by one
// block of threads, in one order. Whether blocks stay for further tiles shows in no bit.
bool add_key_gradients(const Stream<Cuda>& stream, const AttentionBackward<Cuda>& op, bool stay);
bool add_query_gradients(const Stream<Cuda>& stream, const AttentionBackward<Cuda>& op, bool stay);

}  // namespace hopper

// Float arithmetic for any storage, width and alignment: a warp for each row.
template <class S>
void attend_simply(const Stream<CudaDevice<S>>& stream, const AttentionForward<CudaDevice<S>>& op,
                   const AttentionWork& work);
template <class S>
void add_query_gradients_simply(const Stream<CudaDevice<S>>& stream,
                                const AttentionBackward<CudaDevice<S>>& op,
                                const AttentionWork& work);
template <class S>
void add_key_gradients_simply(const Stream<CudaDevice<S>>& stream,
                              const AttentionBackward<CudaDevice<S>>& op,
                              const AttentionWork& work);

}  // namespace longlora
