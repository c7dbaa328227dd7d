#pragma once

#include "kernels/matmul.hpp"

namespace longlora {

// Whether this machine has the vectors that the packed product was made for (8 floats, fused
// multiply-add); without them the BLAS is faster.
bool packed_matmul_is_fast();

// matmul with both operands packed for a 6 x 16 register tile (Goto, van de Geijn 2008). An element
// of the result is alpha times sums of 384 products each, added in order: its bits depend on its
// row of a, its column of b and its old value alone, not on how many rows there are, where they
// lie or how many threads work. a.columns() must not be 0.
void packed_matmul(const Stream<Cpu>& stream, const Matmul<Cpu>& op);

// Bytes of the panels of op(b), (depth, columns), which the next product uses again. What threads have of
// op(a), a block of 216 KB each, is left out.
std::size_t packed_matmul_bytes(Index depth, Index columns);

}  // namespace longlora
