#include "emulator.hpp"

#include "scheduler.hpp"

namespace longlora::emulator {

void run(const Launch& launch, const Body& body) { scheduler.run(launch, body); }
void set_order(std::optional<std::uint64_t> seed) { scheduler.set_order(seed); }

void fail(const std::string& what) {
    const std::string place = scheduler.place();
    throw Failure("emulator: " + (place.empty() ? what : place + ": " + what));
}

int barrier(bool predicate) { return scheduler.barrier(predicate); }

void meet_warp(const char* name, unsigned mask, void* operand, Operation operation) {
    scheduler.meet_warp({mask, name, operation}, operand);
}

void meet_whole_warp(const char* name, void* operand, Operation operation) {
    scheduler.meet_warp({full_mask, name, operation}, operand);
}

int lane() { return static_cast<int>(scheduler.thread() % Scheduler::lanes); }

unsigned char* dynamic_shared() { return scheduler.shared().data(); }
bool is_shared(const void* from, std::size_t bytes) {
    return scheduler.shared().contains(from, bytes);
}

void queue_copy(void* shared, const void* global, int bytes) {
    scheduler.copies().add(shared, global, bytes);
}
void close_copies() { scheduler.copies().close(); }
void finish_copies(int pending) { scheduler.copies().finish(static_cast<std::size_t>(pending)); }

}  // namespace longlora::emulator
