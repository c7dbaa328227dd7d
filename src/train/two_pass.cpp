#include "train/two_pass.hpp"

#include "core/host_copy.hpp"
#include "core/progress_point.hpp"

namespace longlora {
namespace {

template <class Device>
LayerShape shard_shape(const typename TwoPass<Device>::Shape& shape) {
    return layer_shape<Device>(shape.config, shape.tune, shape.layout.shard_length(), true);
}

}  // namespace

template <class Device>
TwoPass<Device>::TwoPass(Arena<Device>& arena, const Shape& shape, Index rank)
    : shape_(shape),
      exchange_(arena,
                {shape.layout,
                 {shape.config.heads, shape.config.kv_heads},
                 shape.config.head_dim,
                 shape.config.layers,
                 true},
                rank),
      activations_(arena, shard_shape<Device>(shape), shape.kept),
      offload_(arena, offload_shape<Device>(shard_shape<Device>(shape), shape.kept)),
      scratch_(arena, shard_shape<Device>(shape)),
      tokens_(arena.template vector<std::int32_t>(shape.layout.shard_length())),
      labels_(arena.template vector<std::int32_t>(shape.layout.shard_length())) {}

template <class Device>
void TwoPass<Device>::connect(const Communicator<Device>& sequence, PhaseTimer& timer) {
    timer_ = &timer;
    exchange_.connect(sequence, timer);
}

template <class Device>
LayerRun<Device> TwoPass<Device>::begin(const Llama<Device>& model, const Stream<Device>& stream,
                                        const Row& row, Index chunk, Pass pass) {
    progress_point().chunk = chunk;
    if (progress_) {
        progress_(chunk, pass);
    }
    exchange_.begin_chunk(chunk, pass);
    const Range range = exchange_.tokens();
    HostCopy<Device, std::int32_t> tokens(tokens_);
    HostCopy<Device, std::int32_t> labels(labels_);
    row.read(range, tokens.values(), labels.values());
    tokens.write_back(stream);
    labels.write_back(stream);
    model.set_position(stream, scratch_, range.begin);
    constexpr Index longest = TokenPieces::longest_on<Device>;
    const Index piece = shape_.has_bits_of_any_layout ? shape_.layout.half() : longest;
    return {stream,
            scratch_,
            {shape_.tune.dropout, row.dropout_key, range.begin},
            static_cast<float>(shape_.config.rms_epsilon),
            {range.begin, piece, longest},
            pass == Pass::compute ? &offload_ : nullptr};
}

template <class Device>
std::optional<double> TwoPass<Device>::run(const Llama<Device>& model, const Stream<Device>& stream,
                                           const Row& row, const ShouldStop& should_stop) {
    const ShardInput<Device> input{tokens_, labels_};
    for (Index chunk = 0; chunk + 1 < shape_.layout.chunks; ++chunk) {
        if (should_stop()) {
            return std::nullopt;
        }
        const PhaseScope forward(*timer_, Phase::forward);
        auto layers = begin(model, stream, row, chunk, Pass::keep);
        model.forward_keep(layers, input, activations_, exchange_);
    }
    double loss = 0;
    for (Index chunk = shape_.layout.chunks - 1; chunk >= 0; --chunk) {
        if (should_stop()) {
            return std::nullopt;
        }
        PhaseScope forward(*timer_, Phase::forward);
        auto layers = begin(model, stream, row, chunk, Pass::compute);
        model.forward(layers, input, activations_, exchange_);
        loss += model.loss(layers, {activations_.residual(), labels_, row.scale, true});
        const PhaseScope backward(*timer_, Phase::backward);
        model.backward(layers, input, activations_, exchange_);
    }
    progress_point().chunk = -1;
    return loss;
}

template <class Device>
bool TwoPass<Device>::idle(const ShouldStop& should_stop) const {
    for (Index i = 0; i < 2 * shape_.layout.chunks - 1; ++i) {
        if (should_stop()) {
            return true;
        }
    }
    return false;
}

LONGLORA_INSTANTIATE(TwoPass);

}  // namespace longlora
