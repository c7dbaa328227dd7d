#include "late_copies.hpp"

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

std::shared_ptr<LateCopies> LateCopies::make() {
    const auto copies = std::make_shared<LateCopies>();
    const std::lock_guard lock(all().mutex);
    std::erase_if(all().of_streams, [](const auto& other) { return other.expired(); });
    all().of_streams.push_back(copies);
    return copies;
}

void LateCopies::add(void* to, const void* from, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    std::memset(to, 0xFF, bytes);
    waiting_.push_back({to, from, bytes});
}

std::size_t LateCopies::count() const {
    const std::lock_guard lock(mutex_);
    return past_ + waiting_.size();
}

void LateCopies::happen(std::size_t count) {
    const std::lock_guard lock(mutex_);
    for (; past_ < count && !waiting_.empty(); ++past_) {
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
