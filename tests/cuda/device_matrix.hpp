#pragma once

#include <algorithm>
#include <cstring>
#include <tuple>
#include <vector>

#include "core/arena.hpp"
#include "core/transfer.hpp"
#include "reference/compare.hpp"

// What the tests of CUDA kernels share: matrices on the device, shapes, and comparison with the CPU.
namespace longlora::cuda_test {

using reference::Matrix;

using Devices = std::tuple<Cuda, CudaFloat>;

// Where a matrix lies: `gap` elements between its rows, `lead` before the first, so that addresses
// are odd, too.
struct Place {
    Index gap = 0;
    Index lead = 0;
};

struct Shape {
    Index rows;
    Index columns;
    Place place = {};
};

// No rows, one element, pitches and addresses that allow wide accesses and that do not, more columns
// than a block has threads.
inline const std::vector<Shape> shapes = {
    {0, 5},           {1, 1},           {7, 3, {1, 0}},   {130, 64},         {5, 64, {8, 0}},
    {3, 64, {1, 0}},  {9, 129, {7, 0}}, {4, 129, {0, 1}}, {2, 4100, {4, 0}}, {3, 4104, {8, 8}},
    {2, 4100, {0, 1}}};

// A matrix on the device among guards. All bytes that are no element stay 0xFF, which is NaN in each
// type: what a kernel reads there shows in the result, and what it writes there is found. Elements
// begin as 0xFF, too, so that one which a kernel leaves out shows.
template <class Device, class T>
class DeviceMatrix {
public:
    DeviceMatrix(const Stream<Device>& stream, Index rows, Index columns, Place place = {})
        : stream_(&stream),
          rows_(rows),
          columns_(columns),
          pitch_(columns + place.gap),
          first_(guard + place.lead),
          size_(first_ + rows * pitch_ + guard),
          memory_(size_) {
        send(nothing());
    }
    DeviceMatrix(const Stream<Device>& stream, const Shape& shape)
        : DeviceMatrix(stream, shape.rows, shape.columns, shape.place) {}

    // One row.
    DeviceMatrix(const Stream<Device>& stream, const std::vector<T>& values, Place place = {})
        : DeviceMatrix(stream, 1, static_cast<Index>(values.size()), place) {
        fill([&](Index, Index c) { return values[static_cast<std::size_t>(c)]; });
    }
    // Rounded to T.
    DeviceMatrix(const Stream<Device>& stream, const Matrix& values, Place place = {})
        : DeviceMatrix(stream, values.view().rows(), values.view().columns(), place) {
        fill([&](Index r, Index c) { return to_element<T>(values.view()(r, c)); });
    }

    View<Device, T, 2> view() { return {memory_.view().data() + first_, rows_, columns_, pitch_}; }
    View<Device, const T, 2> view() const {
        return {memory_.view().data() + first_, rows_, columns_, pitch_};
    }
    View<Device, T, 1> row() { return {view().data(), columns_}; }
    View<Device, const T, 1> row() const { return {view().data(), columns_}; }

    // The elements without the gaps.
    std::vector<T> values() const {
        const std::vector<T> all = receive();
        std::vector<T> result;
        for (Index r = 0; r < rows_; ++r) {
            const auto row = all.begin() + first_ + r * pitch_;
            result.insert(result.end(), row, row + columns_);
        }
        return result;
    }

    bool is_intact() const {
        const std::vector<T> all = receive();
        const std::vector<T> untouched = nothing();
        Index changed = 0;
        for (Index i = 0; i < size_; ++i) {
            const auto at = static_cast<std::size_t>(i);
            changed += !is_element(i) && std::memcmp(&all[at], &untouched[at], sizeof(T)) != 0;
        }
        return changed == 0;
    }

private:
    static constexpr Index guard = 256 / sizeof(T);

    bool is_element(Index i) const {
        const Index inside = i - first_;
        return inside >= 0 && inside < rows_ * pitch_ && inside % pitch_ < columns_;
    }

    std::vector<T> nothing() const {
        std::vector<T> all(static_cast<std::size_t>(size_));
        std::memset(all.data(), 0xFF, sizeof(T) * all.size());
        return all;
    }

    template <class Value>
    void fill(const Value& value) {
        std::vector<T> all = nothing();
        for (Index r = 0; r < rows_; ++r) {
            for (Index c = 0; c < columns_; ++c) {
                all[static_cast<std::size_t>(first_ + r * pitch_ + c)] = value(r, c);
            }
        }
        send(all);
    }

    void send(const std::vector<T>& all) {
        copy_to_device(*stream_, memory_.view().data(), all.data(), sizeof(T) * all.size());
    }
    std::vector<T> receive() const {
        std::vector<T> all(static_cast<std::size_t>(size_));
        copy_to_host(*stream_, all.data(), memory_.view().data(), sizeof(T) * all.size());
        return all;
    }

    const Stream<Device>* stream_;
    Index rows_;
    Index columns_;
    Index pitch_;
    Index first_;
    Index size_;
    Buffer<Device, T> memory_;
};

// The values that a T holds, for the CPU to compute with.
template <class T>
Matrix rounded(Matrix matrix) {
    const auto view = matrix.view();
    for (Index r = 0; r < view.rows(); ++r) {
        for (Index c = 0; c < view.columns(); ++c) {
            view(r, c) = to_float(to_element<T>(view(r, c)));
        }
    }
    return matrix;
}

template <class T>
Matrix random_matrix(std::uint64_t key, const Shape& shape) {
    return rounded<T>(Matrix::random(key, shape.rows, shape.columns));
}

// 1e-5 of the largest value; where the device stores bfloat16, also that rounding of each.
template <class T>
void require_near(const std::string& name, const std::vector<T>& actual,
                  const std::vector<float>& expected, double share = 1e-5) {
    BOOST_REQUIRE_EQUAL(actual.size(), expected.size());
    const double absolute =
        share * reference::largest(std::vector<double>(expected.begin(), expected.end()));
    constexpr double relative = std::is_same_v<T, BFloat16> ? 0x1.0p-8 : 0;
    std::size_t wrong = 0;
    std::size_t first = 0;
    for (std::size_t i = expected.size(); i-- > 0;) {
        const double value = expected[i];
        const double error = std::abs(static_cast<double>(to_float(actual[i])) - value);
        if (!(error <= absolute + relative * std::abs(value))) {  // NaN is wrong, too
            ++wrong;
            first = i;
        }
    }
    if (wrong > 0) {
        BOOST_ERROR(name << ": " << wrong << " of " << expected.size() << " are wrong, first ["
                         << first << "] = " << to_float(actual[first]) << ", not "
                         << expected[first]);
    }
}

template <class T>
std::vector<float> floats(const std::vector<T>& values) {
    std::vector<float> result;
    std::transform(values.begin(), values.end(), std::back_inserter(result),
                   [](T x) { return to_float(x); });
    return result;
}

}  // namespace longlora::cuda_test
