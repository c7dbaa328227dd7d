#include "train/optimizer.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/adamw.hpp"
#include "kernels/elementwise.hpp"
#include "train/learning_rate.hpp"

namespace longlora {
namespace {

constexpr Index piece = 4096;  // elements; the norm is summed over such pieces, whoever holds them

Index own_size(const std::vector<Range>& pieces, int rank) {
    return pieces[static_cast<std::size_t>(rank)].size();
}

}  // namespace

template <class Device>
Optimizer<Device>::Optimizer(const Parameters<Device>& parameters,
                             const Communicator<Device>& world)
    : world_(world),
      pieces_(equal_pieces(parameters.size(), world.size(), piece)),
      gradient_(own_size(pieces_, world.rank())),
      first_(own_size(pieces_, world.rank())),
      second_(own_size(pieces_, world.rank())) {}

template <class Device>
double Optimizer<Device>::reduce(Parameters<Device>& parameters, const Stream<Device>& stream,
                                 PhaseTimer& timer) {
    const PhaseScope sync(timer, Phase::gradient_sync);
    world_.reduce_scatter_sum(View<Device, const float, 1>(parameters.gradients()),
                              gradient_.view(), pieces_);
    return std::sqrt(world_.sum(squared_norm(stream, gradient_.view())));
}

// g *= min(1, clip / (norm + 1e-6)), then AdamW on this rank's range, tensor by tensor
template <class Device>
void Optimizer<Device>::step(Parameters<Device>& parameters, const Stream<Device>& stream,
                             const Options::Train& train, const Update& update, PhaseTimer& timer) {
    {
        const PhaseScope updating(timer, Phase::optimizer);
        const double clip =
            train.clip_norm > 0 ? std::min(1.0, train.clip_norm / (update.norm + 1e-6)) : 1.0;
        const Range mine = range();
        for (const Parameter& parameter : parameters.table()) {
            const Range held{std::max(mine.begin, parameter.offset),
                             std::min(mine.end, parameter.offset + parameter.shape.size())};
            if (held.empty()) {
                continue;
            }
            const Range local{held.begin - mine.begin, held.end - mine.begin};
            adamw_step(stream, {.weight = parameters.weights().slice(held),
                                .gradient = gradient_.view().slice(local),
                                .first_moment = first_.view().slice(local),
                                .second_moment = second_.view().slice(local),
                                .learning_rate = learning_rate(train, update.step),
                                .beta1 = train.beta1,
                                .beta2 = train.beta2,
                                .epsilon = train.epsilon,
                                .weight_decay = parameter.decays ? train.weight_decay : 0.0,
                                .gradient_scale = clip,
                                .step = update.step});
        }
    }
    const PhaseScope sync(timer, Phase::gradient_sync);
    world_.all_gather(parameters.weights(), pieces_);
}

template <class Device>
std::size_t Optimizer<Device>::bytes(Index trainables, int ranks) {
    Index largest = 0;
    for (const Range& range : equal_pieces(trainables, ranks, piece)) {
        largest = std::max(largest, range.size());
    }
    return 3 * sizeof(float) * static_cast<std::size_t>(largest);
}

LONGLORA_INSTANTIATE(Optimizer);

}  // namespace longlora
