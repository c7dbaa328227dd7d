#pragma once

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace longlora {

using Index = std::int64_t;

// a / b, rounded up
constexpr Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
// The least multiple of `unit` that is at least n.
constexpr Index round_up(Index n, Index unit) { return ceil_div(n, unit) * unit; }

// Half-open range of integers: tokens, rows, heads, elements.
struct Range {
    Index begin = 0;
    Index end = 0;

    constexpr Index size() const { return end > begin ? end - begin : 0; }
    constexpr bool empty() const { return end <= begin; }
    constexpr bool operator==(const Range&) const = default;
};

// Non-owning array in a device's memory. Rank 1 is contiguous; rank 2 is row-major with a pitch
// (elements from one row to the next), so that a column slice of a matrix is a View too.
template <class Device, class T, int Rank>
class View;

template <class Device, class T>
class View<Device, T, 1> {
public:
    constexpr View(T* data, Index size) : data_(data), size_(size) {}
    template <class U>
        requires std::is_same_v<const U, T>
    constexpr View(const View<Device, U, 1>& other) : data_(other.data()), size_(other.size()) {}

    constexpr T* data() const { return data_; }
    constexpr Index size() const { return size_; }
    constexpr T& operator[](Index i) const {
        assert(i >= 0 && i < size_);
        return data_[i];
    }
    constexpr View slice(Range range) const { return {data_ + range.begin, range.size()}; }
    constexpr T* begin() const { return data_; }
    constexpr T* end() const { return data_ + size_; }

private:
    T* data_;
    Index size_;
};

template <class Device, class T>
class View<Device, T, 2> {
public:
    constexpr View(T* data, Index rows, Index columns, Index pitch)
        : data_(data), rows_(rows), columns_(columns), pitch_(pitch) {}
    constexpr View(T* data, Index rows, Index columns) : View(data, rows, columns, columns) {}
    template <class U>
        requires std::is_same_v<const U, T>
    constexpr View(const View<Device, U, 2>& other)
        : View(other.data(), other.rows(), other.columns(), other.pitch()) {}

    constexpr T* data() const { return data_; }
    constexpr Index rows() const { return rows_; }
    constexpr Index columns() const { return columns_; }
    constexpr Index pitch() const { return pitch_; }
    constexpr bool is_contiguous() const { return pitch_ == columns_; }
    constexpr T* row(Index r) const { return data_ + r * pitch_; }
    constexpr T& operator()(Index r, Index c) const {
        assert(r >= 0 && r < rows_ && c >= 0 && c < columns_);
        return data_[r * pitch_ + c];
    }
    constexpr View rows(Range range) const {
        return {data_ + range.begin * pitch_, range.size(), columns_, pitch_};
    }
    constexpr View columns(Range range) const {
        return {data_ + range.begin, rows_, range.size(), pitch_};
    }
    // All elements in order; only for a contiguous view.
    constexpr View<Device, T, 1> flat() const {
        assert(is_contiguous() || rows_ <= 1);
        return {data_, rows_ * columns_};
    }

private:
    T* data_;
    Index rows_;
    Index columns_;
    Index pitch_;
};

}  // namespace longlora
