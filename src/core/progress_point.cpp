#include "core/progress_point.hpp"

#include <cstring>

namespace longlora {
namespace {

ProgressPoint& at_first() {
    static ProgressPoint point;
    return point;
}

ProgressPoint*& place() {
    static ProgressPoint* place = &at_first();
    return place;
}

}  // namespace

std::string ProgressPoint::text() const {
    std::string where = std::string("phase ") + phase.data() + ", step " + std::to_string(step);
    if (chunk >= 0) {
        where += ", chunk " + std::to_string(chunk);
    }
    if (layer >= 0) {
        where += ", layer " + std::to_string(layer);
    }
    return where;
}

void ProgressPoint::set_phase(const char* name) {
    std::strncpy(phase.data(), name, phase.size() - 1);
}

ProgressPoint& progress_point() { return *place(); }

void set_progress_point(ProgressPoint* wanted) {
    const ProgressPoint content = progress_point();
    place() = wanted != nullptr ? wanted : &at_first();
    progress_point() = content;
}

}  // namespace longlora
