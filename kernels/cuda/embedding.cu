#include <cassert>

#include "kernels/cuda/parts.cuh"
#include "kernels/embedding.hpp"

namespace longlora {
namespace {

constexpr int width = part_width<float>;

template <class Device, bool is_packed>
__global__ void embedding_forward_kernel(EmbeddingForward<Device> op) {
    for_parts<width, is_packed>(op.x.rows(), op.x.columns(), [&](Index t, const auto& part) {
        const Index token = op.tokens[t];
        assert(token >= 0 && token < op.table.rows());
        part.copy(op.table.row(token), op.x.row(t));
    });
}

}  // namespace

template <class S>
void embedding_forward(const Stream<CudaDevice<S>>& stream,
                       const EmbeddingForward<CudaDevice<S>>& op) {
    using Device = CudaDevice<S>;
    launch(stream,
           are_packable<width>(op.table, op.x) ? embedding_forward_kernel<Device, true>
                                               : embedding_forward_kernel<Device, false>,
           grid_for_parts(op.x.rows(), op.x.columns(), width), op);
}

template void embedding_forward(const Stream<Cuda>&, const EmbeddingForward<Cuda>&);
template void embedding_forward(const Stream<CudaFloat>&, const EmbeddingForward<CudaFloat>&);

}  // namespace longlora
