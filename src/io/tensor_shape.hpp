#pragma once

#include <string>

#include "core/view.hpp"

namespace longlora {

// A tensor that a reader expects in a file.
struct TensorShape {
    std::string name;
    Index rows = 0;     // out features; the length of a vector
    Index columns = 0;  // in features; 0 = a vector (a norm's weight)

    Index row_size() const { return columns == 0 ? 1 : columns; }  // elements of a row
    Index size() const { return rows * row_size(); }
    bool operator==(const TensorShape&) const = default;
};

}  // namespace longlora
