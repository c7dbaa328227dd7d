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

}  // namespace longlora
