#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "context.hpp"
#include "copy_queue.hpp"
#include "emulator.hpp"
#include "shared_memory.hpp"

namespace longlora::emulator {

struct Thread {
    uint3 index{};
    Context* context = nullptr;      // none before it starts
    const char* waits_at = nullptr;  // the name of an operation
    CopyQueue copies;
};

// What lanes meet for.
struct Meeting {
    unsigned mask;
    const char* name;
    Operation operation;
};

// Lanes that have come to it.
struct Group {
    Meeting meeting;
    unsigned arrived = 0;
    std::array<void*, warp_lanes> operands{};
};

struct Warp {
    unsigned ended = 0;  // lanes, a bit each; those that a cut warp has not count as well
    std::vector<Group> groups;
};

// Threads that wait for the same.
using Waiting = std::vector<unsigned>;

// What the machine does beside the threads, at a moment of its own choice.
using Event = std::function<void()>;

// Who runs, who waits for whom. One for the process.
class Scheduler {
public:
    static constexpr unsigned lanes = warp_lanes;

    Scheduler();
    void set_order(std::optional<std::uint64_t> seed);
    void run(const Launch& launch, const Body& body);
    [[noreturn]] void work();

    // By the running thread.
    int barrier(bool predicate);
    void meet_warp(const Meeting& meeting, void* operand);
    unsigned thread() const;
    CopyQueue& copies() { return threads_[thread()].copies; }
    std::string place() const;
    const SharedMemory& shared() const { return shared_; }
    std::size_t threads() const { return threads_.size(); }

    // Until another thread, or an event, releases the list.
    void wait_in(Waiting& list, const char* name);
    void release(Waiting& list);
    // The event happens as late as can be: when no thread can go on. With a seed, at any time.
    void later(Event event) { events_.push_back(std::move(event)); }
    // By chance in one of `n` cases; without a seed, never.
    bool happens(unsigned n) { return random_ && (*random_)() % n == 0; }
    // The running thread goes on later, if there is a seed.
    void let_others_go_first(const char* name);

private:
    static constexpr unsigned nobody = ~0U;

    void run_block(std::size_t number);
    void prepare_block(std::size_t number);
    void discard_stacks();
    Context& enter(unsigned thread);
    unsigned next_thread();
    unsigned next_thread_or_error();
    void happen();
    void wait(const char* name);
    void end_block();
    void end_thread();
    void open_barrier();
    bool is_complete(const Warp& warp, const Group& group) const;
    void complete(Warp& warp, Group& group);
    std::string deadlock() const;

    std::mutex mutex_;  // one launch at a time
    std::optional<std::mt19937_64> random_;
    const Launch* launch_ = nullptr;
    const Body* body_ = nullptr;
    std::exception_ptr error_;
    SharedMemory shared_;

    Context host_;
    std::vector<std::unique_ptr<Context>> contexts_;
    std::vector<Context*> idle_;

    std::vector<Thread> threads_;
    std::vector<Warp> warps_;
    std::vector<unsigned> order_;  // in which threads start
    std::size_t started_ = 0;
    std::vector<unsigned> ready_;  // started, and may go on; the last one first
    std::vector<Event> events_;
    std::vector<unsigned> at_barrier_;
    unsigned live_ = 0;
    unsigned running_ = nobody;
    int holding_ = 0;  // threads at the barrier whose predicate holds
    int held_ = 0;     // at the barrier before
};

extern Scheduler scheduler;

}  // namespace longlora::emulator
