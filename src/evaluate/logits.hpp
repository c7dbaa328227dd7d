#pragma once

#include <string>

#include "data/token_stream.hpp"
#include "model/llama.hpp"

namespace longlora {

struct LogitsTask {
    std::string path;  // of the HDF5 file
    Index context;     // T
};

// evaluate.dump_logits: the logits of the stream's first T tokens under full attention, to be
// compared with what others compute. /tokens int32 (T), /logits float32 (T, V). Collective: each rank
// computes all of it by itself, rank 0 writes.
template <class Device>
void dump_logits(const LogitsTask& task, const Llama<Device>& model, const Tune& tune,
                 const TokenStream& data, const Stream<Device>& stream);

}  // namespace longlora
