#include "kernels/embedding.hpp"

#include <algorithm>
#include <cassert>

namespace longlora {

void embedding_forward(const Stream<Cpu>& stream, const EmbeddingForward<Cpu>& op) {
    parallel_blocks(stream, op.x.rows(), 64, [&](Range rows) {
        for (Index t = rows.begin; t < rows.end; ++t) {
            const Index token = op.tokens[t];
            assert(token >= 0 && token < op.table.rows());
            std::copy_n(op.table.row(token), op.x.columns(), op.x.row(t));
        }
    });
}

void embedding_backward(const Stream<Cpu>& stream, const EmbeddingBackward<Cpu>& op) {
    // Threads share the columns, not the tokens: a row of the table receives its addends in token
    // order however many threads there are, and no two threads write to one place.
    parallel_blocks(stream, op.d_x.columns(), 64, [&](Range columns) {
        for (Index t = 0; t < op.d_x.rows(); ++t) {
            const float* from = op.d_x.row(t);
            float* to = op.d_table.row(op.tokens[t]);
            for (Index e = columns.begin; e < columns.end; ++e) {
                to[e] += from[e];
            }
        }
    });
}

}  // namespace longlora
