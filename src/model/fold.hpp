#pragma once

#include <algorithm>
#include <initializer_list>

#include "model/elements.hpp"
#include "model/tune.hpp"

// LoRA as columns and rows of the frozen weight, so that one product does what two would, and no output
// is read again to be added to:
//
//     stored [W | s B]      y = [x | xa] [W | s B]'        xa = x~ A'
//            [A |  0 ]     dx = [dy | dxa] [W ; A]        dxa = s dy B
//
// xa and dxa lie behind x and dy, in the same rows. A weight in the storage type is the place for A and
// B, which products could not read in float; where floats are stored nothing is folded.
namespace longlora {

// P, the columns and rows that a folded weight has more, and its operands' buffers: R, and zeros up to
// a multiple of 16, with which rows still start at multiples of 32 bytes. 0: nothing is folded.
template <class Device>
Index fold_columns(const Tune& tune) {
    constexpr Index unit = 16;
    return stores_floats<Device> || tune.mode == TuneMode::full ? 0 : round_up(tune.rank, unit);
}

// P where one of the linear layers is a target, else 0: what half a layer's buffers have.
template <class Device>
Index fold_columns(const Tune& tune, std::initializer_list<const char*> layers) {
    const bool has_target = std::ranges::any_of(layers, [&](const char* layer) {
        return std::ranges::find(tune.targets, layer) != tune.targets.end();
    });
    return has_target ? fold_columns<Device>(tune) : 0;
}
template <class Device>
Index attention_fold(const Tune& tune) {
    return fold_columns<Device>(tune, {"q_proj", "k_proj", "v_proj", "o_proj"});
}
template <class Device>
Index mlp_fold(const Tune& tune) {
    return fold_columns<Device>(tune, {"gate_proj", "up_proj", "down_proj"});
}

// (T, P) the columns behind x
template <class Device, class T>
View<Device, T, 2> behind(View<Device, T, 2> x, Index columns) {
    return {x.data() + x.columns(), x.rows(), columns, x.pitch()};
}

// [x | behind x]
template <class Device, class T>
View<Device, T, 2> with_behind(View<Device, T, 2> x, Index columns) {
    return {x.data(), x.rows(), x.columns() + columns, x.pitch()};
}

// (P, in) the rows below w
template <class Device, class T>
View<Device, T, 2> below(View<Device, T, 2> w, Index rows) {
    return {w.row(w.rows()), rows, w.columns(), w.pitch()};
}

// [w ; below w]
template <class Device, class T>
View<Device, T, 2> with_below(View<Device, T, 2> w, Index rows) {
    return {w.data(), w.rows() + rows, w.columns(), w.pitch()};
}

}  // namespace longlora
