#include "late_copies.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

namespace longlora::emulator {

namespace {

struct All {
    std::mutex mutex;
    std::vector<std::weak_ptr<LateCopies>> of_streams;
};

// Never destroyed: static objects may give memory back at the end of the process.
All& all() {
    static auto* const streams = new All;
    return *streams;
}

}  // namespace

std::shared_ptr<LateCopies> LateCopies::of_new_stream() {
    const auto copies = std::make_shared<LateCopies>();
    const std::lock_guard lock(all().mutex);
    std::erase_if(all().of_streams, [](const auto& other) { return other.expired(); });
    all().of_streams.push_back(copies);
    return copies;
}

// Those that read what NaN would overwrite happen now.
void LateCopies::add(void* to, const void* from, std::size_t bytes) {
    const auto* const first = static_cast<const char*>(to);
    const std::lock_guard lock(mutex_);
    for (std::size_t i = waiting_.size(); i-- > 0;) {
        const auto* const read = static_cast<const char*>(waiting_[i].from);
        if (read < first + bytes && first < read + waiting_[i].bytes) {
            make(i + 1);
            break;
        }
    }
    std::memset(to, 0xFF, bytes);
    waiting_.push_back({to, from, bytes});
}

std::size_t LateCopies::count() const {
    const std::lock_guard lock(mutex_);
    return past_ + waiting_.size();
}

void LateCopies::happen(std::size_t count) {
    const std::lock_guard lock(mutex_);
    make(count - std::min(count, past_));
}

void LateCopies::make(std::size_t count) {
    for (; count > 0 && !waiting_.empty(); --count, ++past_) {
        const Copy& copy = waiting_.front();
        std::memcpy(copy.to, copy.from, copy.bytes);
        waiting_.pop_front();
    }
}

void finish_copies() {
    std::vector<std::shared_ptr<LateCopies>> streams;
    {
        const std::lock_guard lock(all().mutex);
        for (const auto& stream : all().of_streams) {
            if (auto copies = stream.lock()) {
                streams.push_back(std::move(copies));
            }
        }
    }
    for (const auto& copies : streams) {
        copies->happen();
    }
}

}  // namespace longlora::emulator
