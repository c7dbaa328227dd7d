// In the place of the other files here where there is no CUDA Toolkit.
#include "kernels/matmul.hpp"

namespace longlora {

void prepare_cuda_matmul() {}

}  // namespace longlora
