#pragma once

#include <cstring>
#include <type_traits>

#include "device_atomic_functions.h"
#include "emulator.hpp"

// __syncthreads, shuffles and votes. Lanes that have ended count as absent even if a mask names them.

namespace longlora::emulator {

template <class T>
concept Shuffled =
    OneOf<T, int, unsigned, long, unsigned long, long long, unsigned long long, float, double>;

struct Shuffle {
    unsigned long long bits;
    int source;  // a lane
    unsigned long long result;
};
// result = bits of the source; all ones, NaN in every format, where the source does not take part
void shuffle(void* const* operands);

struct Vote {
    bool predicate;
    unsigned ballot;   // lanes where it holds
    unsigned present;  // lanes that take part
};
void vote(void* const* operands);

inline void meet(void* const*) {}

// Lanes are in segments of `width`; out of the segment means the lane itself.
template <Shuffled T, class Source>
T shuffled(const char* name, unsigned mask, T value, int width, const Source& source) {
    if (width < 1 || width > warp_lanes || (width & (width - 1)) != 0) {
        fail(std::string(name) + " of a width that is not a power of 2 up to 32");
    }
    const int mine = lane();
    const int first = mine / width * width;
    Shuffle shuffle_of_lane{0, source(mine, first, first + width), 0};
    std::memcpy(&shuffle_of_lane.bits, &value, sizeof value);
    meet_warp(name, mask, &shuffle_of_lane, shuffle);
    std::memcpy(&value, &shuffle_of_lane.result, sizeof value);
    return value;
}

inline Vote voted(const char* name, unsigned mask, bool predicate) {
    Vote vote_of_lane{predicate, 0, 0};
    meet_warp(name, mask, &vote_of_lane, vote);
    return vote_of_lane;
}

struct Reduction {
    unsigned value;
    unsigned result;
};
template <class T, class Combine>
void reduce(void* const* operands) {
    bool is_first = true;
    T result{};
    for (int i = 0; i < warp_lanes; ++i) {
        if (operands[i] != nullptr) {
            const auto value = static_cast<T>(static_cast<const Reduction*>(operands[i])->value);
            result = is_first ? value : Combine()(result, value);
            is_first = false;
        }
    }
    for (int i = 0; i < warp_lanes; ++i) {
        if (operands[i] != nullptr) {
            static_cast<Reduction*>(operands[i])->result = static_cast<unsigned>(result);
        }
    }
}
template <class Combine, class T>
    requires OneOf<T, int, unsigned>
T reduced(const char* name, unsigned mask, T value) {
    Reduction reduction{static_cast<unsigned>(value), 0};
    meet_warp(name, mask, &reduction, reduce<T, Combine>);
    return static_cast<T>(reduction.result);
}
struct Sum {
    template <class T>
    T operator()(T a, T b) const {
        return wrapping_sum(a, b);
    }
};
struct Minimum {
    template <class T>
    T operator()(T a, T b) const {
        return b < a ? b : a;
    }
};
struct Maximum {
    template <class T>
    T operator()(T a, T b) const {
        return a < b ? b : a;
    }
};

}  // namespace longlora::emulator

inline void __syncthreads() { longlora::emulator::barrier(false); }
inline int __syncthreads_count(int predicate) {
    return longlora::emulator::barrier(predicate != 0);
}
inline int __syncthreads_or(int predicate) {
    return longlora::emulator::barrier(predicate != 0) != 0 ? 1 : 0;
}
inline int __syncthreads_and(int predicate) {
    return longlora::emulator::barrier(predicate == 0) == 0 ? 1 : 0;
}
inline void __syncwarp(unsigned mask = longlora::emulator::full_mask) {
    longlora::emulator::meet_warp("__syncwarp", mask, nullptr, longlora::emulator::meet);
}

template <longlora::emulator::Shuffled T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const auto from = [source](int, int first, int end) {
        return first + (source & (end - first - 1));
    };
    return longlora::emulator::shuffled("__shfl_sync", mask, value, width, from);
}
template <longlora::emulator::Shuffled T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    const auto from = [distance](int lane, int first, int) {
        const int source = lane - static_cast<int>(distance);
        return source >= first ? source : lane;
    };
    return longlora::emulator::shuffled("__shfl_up_sync", mask, value, width, from);
}
template <longlora::emulator::Shuffled T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    const auto from = [distance](int lane, int, int end) {
        const int source = lane + static_cast<int>(distance);
        return source < end ? source : lane;
    };
    return longlora::emulator::shuffled("__shfl_down_sync", mask, value, width, from);
}
template <longlora::emulator::Shuffled T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
    const auto from = [lane_mask](int lane, int, int end) {
        const int source = lane ^ lane_mask;
        return source < end ? source : lane;
    };
    return longlora::emulator::shuffled("__shfl_xor_sync", mask, value, width, from);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return longlora::emulator::voted("__ballot_sync", mask, predicate != 0).ballot;
}
inline int __any_sync(unsigned mask, int predicate) {
    return longlora::emulator::voted("__any_sync", mask, predicate != 0).ballot != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate) {
    const auto vote = longlora::emulator::voted("__all_sync", mask, predicate != 0);
    return vote.ballot == vote.present ? 1 : 0;
}

template <longlora::emulator::OneOf<int, unsigned> T>
T __reduce_add_sync(unsigned mask, T value) {
    return longlora::emulator::reduced<longlora::emulator::Sum>("__reduce_add_sync", mask, value);
}
template <longlora::emulator::OneOf<int, unsigned> T>
T __reduce_min_sync(unsigned mask, T value) {
    return longlora::emulator::reduced<longlora::emulator::Minimum>("__reduce_min_sync", mask,
                                                                    value);
}
template <longlora::emulator::OneOf<int, unsigned> T>
T __reduce_max_sync(unsigned mask, T value) {
    return longlora::emulator::reduced<longlora::emulator::Maximum>("__reduce_max_sync", mask,
                                                                    value);
}
