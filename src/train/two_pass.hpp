#pragma once

#include <functional>
#include <optional>

#include "model/llama.hpp"

namespace longlora {

// Reads the inputs and labels of tokens `range` of the row at hand (range counts from its start).
using ReadTokens = std::function<void(Range range, std::span<std::int32_t> tokens,
                                      std::span<std::int32_t> labels)>;

// Asked between chunks; true: give the row up.
using ShouldStop = std::function<bool()>;

// How one sequence is trained, always (mathematics.md, section 4):
//   pass 1, c = 0 .. C-2: forward only, K/V that later chunks need are kept
//   pass 2, c = C-1 .. 0: forward, loss, backward; dK/dV of earlier chunks add up where K/V are kept
// Chunks = 1 is the ordinary case of it. The gradient is exact; activations are those of one chunk.
template <class Device>
class TwoPass {
public:
    struct Shape {
        LlamaConfig config;
        Tune tune;
        Layout layout;
        KeptActivations kept;
        // Gradients are summed by half-groups, so that their bits are those of every aligned layout;
        // else by pieces as long as the products like them.
        bool has_bits_of_any_layout = true;
    };
    // Takes all memory of the training of a row from `arena`; `rank` is the sequence rank.
    TwoPass(Arena<Device>& arena, const Shape& shape, Index rank);
    void connect(const Communicator<Device>& sequence, PhaseTimer& timer);

    struct Row {
        ReadTokens read;
        float scale;                // 1 / labels of the whole step
        std::uint64_t dropout_key;  // of (seed, step, row)
    };
    // Adds the row's gradients to the model's; returns this rank's part of the loss, or nothing
    // when `should_stop` said so (the gradients are then incomplete).
    std::optional<double> run(const Llama<Device>& model, const Stream<Device>& stream,
                              const Row& row, const ShouldStop& should_stop);
    // As many questions as run() asks, for a replica without a row; true when the answer was yes.
    bool idle(const ShouldStop& should_stop) const;

    // Tests and progress: called with chunk and pass before each chunk.
    void set_progress(std::function<void(Index chunk, Pass pass)> progress) {
        progress_ = std::move(progress);
    }
    ContextExchange<Device>& exchange() { return exchange_; }

private:
    LayerRun<Device> begin(const Llama<Device>& model, const Stream<Device>& stream, const Row& row,
                           Index chunk, Pass pass);

    Shape shape_;
    ContextExchange<Device> exchange_;
    Activations<Device> activations_;
    MlpOffload<Device> offload_;
    Scratch<Device> scratch_;
    View<Device, std::int32_t, 1> tokens_;
    View<Device, std::int32_t, 1> labels_;
    PhaseTimer* timer_ = nullptr;
    std::function<void(Index, Pass)> progress_;
};

}  // namespace longlora
