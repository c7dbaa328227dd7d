#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "core/random.hpp"
#include "core/view.hpp"

// Inputs, comparisons and derivatives that the tests of kernels share.
namespace longlora::reference {

// A matrix whose rows lie `gap` elements apart. What lies between them is set to a sentinel, so a
// kernel that reads it shows in the result and one that writes it is found by `gaps_are_intact`.
class Matrix {
public:
    Matrix(Index rows, Index columns, Index gap = 0)
        : rows_(rows),
          columns_(columns),
          pitch_(columns + gap),
          data_(static_cast<std::size_t>(rows * (columns + gap)), sentinel) {
        fill([](Index) { return 0.0F; });
    }

    static Matrix random(std::uint64_t key, Index rows, Index columns, Index gap = 0) {
        Matrix matrix(rows, columns, gap);
        matrix.fill([&](Index i) { return uniform(key, i); });
        return matrix;
    }

    View<Cpu, float, 2> view() { return {data_.data(), rows_, columns_, pitch_}; }
    View<Cpu, const float, 2> view() const { return {data_.data(), rows_, columns_, pitch_}; }

    // The elements without the gaps.
    template <class S = double>
    std::vector<S> values() const {
        std::vector<S> result;
        for (Index r = 0; r < rows_; ++r) {
            result.insert(result.end(), view().row(r), view().row(r) + columns_);
        }
        return result;
    }

    bool gaps_are_intact() const {
        for (Index i = 0; i < rows_ * pitch_; ++i) {
            if (i % pitch_ >= columns_ && data_[static_cast<std::size_t>(i)] != sentinel) {
                return false;
            }
        }
        return true;
    }

    // In [-2, 2), never repeated for another key or index.
    static float uniform(std::uint64_t key, Index i) {
        return static_cast<float>(4 * random_uniform(key, static_cast<std::uint64_t>(i)) - 2);
    }

private:
    static constexpr float sentinel = 1.25e30F;

    template <class Value>
    void fill(const Value& value) {
        for (Index r = 0; r < rows_; ++r) {
            for (Index c = 0; c < columns_; ++c) {
                data_[static_cast<std::size_t>(r * pitch_ + c)] = value(r * columns_ + c);
            }
        }
    }

    Index rows_;
    Index columns_;
    Index pitch_;
    std::vector<float> data_;
};

inline std::vector<float> random_vector(std::uint64_t key, Index size) {
    return Matrix::random(key, 1, size).values<float>();
}

template <class S>
View<Cpu, S, 1> view(std::vector<S>& values) {
    return {values.data(), static_cast<Index>(values.size())};
}
template <class S>
View<Cpu, const S, 1> view(const std::vector<S>& values) {
    return {values.data(), static_cast<Index>(values.size())};
}

template <class To, class From>
std::vector<To> convert(const std::vector<From>& from) {
    return {from.begin(), from.end()};
}

inline double largest(const std::vector<double>& values) {
    double result = 0;
    for (const double value : values) {
        result = std::max(result, std::abs(value));
    }
    return result;
}

// The largest difference; infinity where one is not a number.
template <class A>
double difference(const std::vector<A>& actual, const std::vector<double>& expected) {
    double result = 0;
    for (std::size_t i = 0; i < actual.size(); ++i) {
        const double distance = std::abs(static_cast<double>(actual[i]) - expected[i]);
        result = distance <= result ? result : distance;
        if (std::isnan(distance)) {
            return std::numeric_limits<double>::infinity();
        }
    }
    return result;
}

template <class A>
void require_close(const std::string& name, const std::vector<A>& actual,
                   const std::vector<double>& expected, double tolerance) {
    BOOST_REQUIRE_EQUAL(actual.size(), expected.size());
    const double distance = difference(actual, expected);
    BOOST_CHECK_MESSAGE(distance <= tolerance, name << ": off by " << distance << ", allowed "
                                                    << tolerance << ", largest value "
                                                    << largest(expected));
}

// Twice the error of a plain float computation; four roundings of the largest value where that
// computation was lucky.
inline double earned_tolerance(const std::vector<float>& plain,
                               const std::vector<double>& expected) {
    constexpr double rounding = 0x1.0p-24;
    return std::max(2 * difference(plain, expected), 4 * rounding * largest(expected));
}

inline double relative_tolerance(double relative, const std::vector<double>& expected) {
    return relative * largest(expected);
}

// d f / d x_i = Im f(x + i h e_i) / h: exact to rounding, since nothing is subtracted (Squire,
// Trapp 1998). `f` maps a vector of complex numbers to one.
template <class F>
double derivative(const F& f, const std::vector<double>& at, Index i) {
    constexpr double step = 1e-30;
    std::vector<std::complex<double>> z(at.begin(), at.end());
    z[static_cast<std::size_t>(i)] += std::complex<double>(0, step);
    return f(z).imag() / step;
}

template <class F>
std::vector<double> gradient(const F& f, const std::vector<double>& at) {
    std::vector<double> result;
    for (Index i = 0; i < static_cast<Index>(at.size()); ++i) {
        result.push_back(derivative(f, at, i));
    }
    return result;
}

template <class S>
S dot(const std::vector<S>& a, const std::vector<double>& b) {
    S sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        sum += a[i] * b[i];
    }
    return sum;
}

template <class S>
double real_part(S x) {
    return static_cast<double>(std::real(x));
}

}  // namespace longlora::reference
