#include "core/progress_point.hpp"

namespace longlora {

std::string ProgressPoint::text() const {
    std::string where = std::string("phase ") + phase + ", step " + std::to_string(step);
    if (chunk >= 0) {
        where += ", chunk " + std::to_string(chunk);
    }
    if (layer >= 0) {
        where += ", layer " + std::to_string(layer);
    }
    return where;
}

ProgressPoint& progress_point() {
    static ProgressPoint point;
    return point;
}

}  // namespace longlora
