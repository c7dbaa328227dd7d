#include "scheduler.hpp"

#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>
#include <utility>

#include "device_launch_parameters.h"
#include "hopper.hpp"

uint3 threadIdx{};
uint3 blockIdx{};
dim3 blockDim;
dim3 gridDim;

namespace longlora::emulator {

Scheduler scheduler;

namespace {

constexpr unsigned events_are_rare = 16;  // turns for each of them

std::string text(const uint3& index) {
    return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
           std::to_string(index.z) + ")";
}

std::string text(const std::type_info& type) {
    int status = 0;
    const std::unique_ptr<char, void (*)(void*)> name(
        abi::__cxa_demangle(type.name(), nullptr, nullptr, &status), std::free);
    return status == 0 ? name.get() : type.name();
}

// x fastest, as CUDA numbers threads and blocks
uint3 index_of(std::size_t number, const dim3& size) {
    return {static_cast<unsigned>(number % size.x), static_cast<unsigned>(number / size.x % size.y),
            static_cast<unsigned>(number / size.x / size.y)};
}
std::size_t count(const dim3& size) { return std::size_t{size.x} * size.y * size.z; }

}  // namespace

Scheduler::Scheduler() {
    if (const char* seed = std::getenv("LONGLORA_EMULATOR_SEED")) {
        set_order(std::strtoull(seed, nullptr, 10));
    }
}

void Scheduler::set_order(std::optional<std::uint64_t> seed) {
    random_.reset();
    if (seed) {
        random_.emplace(*seed);
    }
}

void Scheduler::run(const Launch& launch, const Body& body) {
    const std::lock_guard lock(mutex_);
    launch_ = &launch;
    body_ = &body;
    gridDim = launch.grid;
    blockDim = launch.block;
    shared_.resize(launch.shared_bytes);
    const auto threads = count(launch.block);
    threads_.resize(threads);
    for (std::size_t i = 0; i < threads; ++i) {
        threads_[i].index = index_of(i, launch.block);
    }
    warps_.resize((threads + lanes - 1) / lanes);
    order_.resize(threads);

    std::vector<std::size_t> blocks(random_ ? count(launch.grid) : 0);
    std::iota(blocks.begin(), blocks.end(), std::size_t{0});
    if (random_) {
        std::shuffle(blocks.begin(), blocks.end(), *random_);
    }
    for (std::size_t i = 0; i < count(launch.grid); ++i) {
        run_block(random_ ? blocks[i] : i);
    }
}

void Scheduler::run_block(std::size_t number) {
    prepare_block(number);
    host_.switch_to(enter(next_thread()));
    running_ = nobody;
    if (error_) {
        discard_stacks();
        std::rethrow_exception(std::exchange(error_, nullptr));
    }
    end_block();
}

void Scheduler::end_block() {
    while (!events_.empty()) {
        happen();
    }
    if (const std::string left = hopper.left_at_end(); !left.empty()) {
        throw Failure("emulator: block " + text(blockIdx) + " of kernel " + text(*launch_->kernel) +
                      " has ended " + left);
    }
    if (!shared_.is_intact()) {
        throw Failure("emulator: block " + text(blockIdx) + " of kernel " + text(*launch_->kernel) +
                      " has written behind its dynamic shared memory of " +
                      std::to_string(launch_->shared_bytes) + " bytes");
    }
}

void Scheduler::prepare_block(std::size_t number) {
    blockIdx = index_of(number, launch_->grid);
    shared_.poison();
    for (Thread& thread : threads_) {
        thread.context = nullptr;
        thread.waits_at = nullptr;
        thread.copies.clear();
    }
    for (Warp& warp : warps_) {
        warp.ended = 0;
        warp.groups.clear();
    }
    if (const auto rest = threads_.size() % lanes; rest != 0) {
        warps_.back().ended = full_mask << rest;
    }
    std::iota(order_.begin(), order_.end(), 0U);
    if (random_) {
        std::shuffle(order_.begin(), order_.end(), *random_);
    }
    started_ = 0;
    ready_.clear();
    events_.clear();
    at_barrier_.clear();
    hopper.prepare_block(threads_.size());
    live_ = static_cast<unsigned>(threads_.size());
    holding_ = 0;
}

// After an error, threads stay in the middle of what they did.
void Scheduler::discard_stacks() {
    idle_.clear();
    for (const auto& context : contexts_) {
        context->restart();
        idle_.push_back(context.get());
    }
}

// The context where `thread`, from now on the running one, begins or goes on.
Context& Scheduler::enter(unsigned thread) {
    running_ = thread;
    threadIdx = threads_[thread].index;
    Context*& context = threads_[thread].context;
    if (context == nullptr) {
        if (idle_.empty()) {
            contexts_.push_back(
                std::make_unique<Context>([] { scheduler.work(); }, contexts_.size()));
            idle_.push_back(contexts_.back().get());
        }
        context = idle_.back();
        idle_.pop_back();
    }
    return *context;
}

void Scheduler::happen() {
    const std::size_t choice = random_ ? (*random_)() % events_.size() : 0;
    const Event event = std::move(events_[choice]);
    events_.erase(events_.begin() + static_cast<std::ptrdiff_t>(choice));
    event();
}

// Started threads before others, so that few stacks are in use; nobody: all wait.
unsigned Scheduler::next_thread() {
    const std::size_t fresh = order_.size() - started_;
    while (!events_.empty() && ((ready_.empty() && fresh == 0) || happens(events_are_rare))) {
        happen();
    }
    if (ready_.empty() && fresh == 0) {
        return nobody;
    }
    std::size_t choice = ready_.empty() ? 0 : ready_.size() - 1;
    if (random_) {
        choice = (*random_)() % (ready_.size() + fresh);
    }
    if (choice >= ready_.size()) {
        return order_[started_++];
    }
    std::swap(ready_[choice], ready_.back());
    const unsigned thread = ready_.back();
    ready_.pop_back();
    return thread;
}

unsigned Scheduler::next_thread_or_error() {
    try {
        const unsigned thread = next_thread();
        if (thread == nobody) {
            throw Failure("emulator: " + deadlock());
        }
        return thread;
    } catch (...) {
        error_ = std::current_exception();
        return nobody;
    }
}

// The loop of every stack: while no thread waits, one after another runs here without any switch.
void Scheduler::work() {
    for (;;) {
        try {
            (*body_)();
            end_thread();
        } catch (...) {
            error_ = std::current_exception();
        }
        Context& mine = *threads_[running_].context;
        Context* next = &host_;
        const unsigned thread = error_ || live_ == 0 ? nobody : next_thread_or_error();
        if (!error_) {
            idle_.push_back(&mine);
        }
        if (thread != nobody) {
            next = &enter(thread);
        }
        if (next != &mine) {
            mine.switch_to(*next);
        }
    }
}

void Scheduler::wait(const char* name) {
    const unsigned mine = thread();
    threads_[mine].waits_at = name;
    const unsigned next = next_thread();
    if (next == nobody) {
        throw Failure("emulator: " + deadlock());
    }
    if (next != mine) {
        Context& left = *threads_[mine].context;
        left.switch_to(enter(next));
    }
    threads_[mine].waits_at = nullptr;
}

void Scheduler::wait_in(Waiting& list, const char* name) {
    list.push_back(thread());
    wait(name);
}

void Scheduler::release(Waiting& list) {
    ready_.insert(ready_.end(), list.rbegin(), list.rend());
    list.clear();
}

// The last to arrive need not be the first to go on.
void Scheduler::let_others_go_first(const char* name) {
    if (random_) {
        ready_.push_back(running_);
        wait(name);
    }
}

int Scheduler::barrier(bool predicate) {
    at_barrier_.push_back(thread());
    holding_ += predicate ? 1 : 0;
    if (at_barrier_.size() == live_) {
        open_barrier();
        let_others_go_first("__syncthreads");
    } else {
        wait("__syncthreads");
    }
    return held_;  // the next barrier cannot open before this thread is there
}

void Scheduler::open_barrier() {
    for (auto i = at_barrier_.rbegin(); i != at_barrier_.rend(); ++i) {
        if (*i != running_) {
            ready_.push_back(*i);
        }
    }
    at_barrier_.clear();
    held_ = std::exchange(holding_, 0);
}

void Scheduler::meet_warp(const Meeting& meeting, void* operand) {
    Warp& warp = warps_[thread() / lanes];
    const unsigned lane = running_ % lanes;
    if ((meeting.mask >> lane & 1U) == 0) {
        fail(std::string(meeting.name) + " by a lane that is not in its own mask");
    }
    auto group = std::find_if(warp.groups.begin(), warp.groups.end(),
                              [&](const Group& g) { return g.meeting.mask == meeting.mask; });
    if (group == warp.groups.end()) {
        group = warp.groups.insert(group, Group{meeting});
    }
    const Meeting& others = group->meeting;
    if (others.operation != meeting.operation ||
        (others.name != meeting.name && std::strcmp(others.name, meeting.name) != 0)) {
        fail(std::string(meeting.name) + " where other lanes of the mask are at " + others.name);
    }
    group->arrived |= 1U << lane;
    group->operands[lane] = operand;
    if (is_complete(warp, *group)) {
        complete(warp, *group);
        let_others_go_first(meeting.name);
    } else {
        wait(meeting.name);
    }
}

bool Scheduler::is_complete(const Warp& warp, const Group& group) const {
    return group.arrived == (group.meeting.mask & ~warp.ended);
}

void Scheduler::complete(Warp& warp, Group& group) {
    group.meeting.operation(group.operands.data());
    const auto first = static_cast<unsigned>(&warp - warps_.data()) * lanes;
    for (unsigned lane = lanes; lane-- > 0;) {
        if ((group.arrived >> lane & 1U) != 0 && first + lane != running_) {
            ready_.push_back(first + lane);
        }
    }
    std::swap(group, warp.groups.back());
    warp.groups.pop_back();
}

// Whoever waited for this thread does so no longer.
void Scheduler::end_thread() {
    Warp& warp = warps_[running_ / lanes];
    warp.ended |= 1U << running_ % lanes;
    --live_;
    for (std::size_t i = warp.groups.size(); i-- > 0;) {
        if (is_complete(warp, warp.groups[i])) {
            complete(warp, warp.groups[i]);
        }
    }
    if (live_ > 0 && at_barrier_.size() == live_) {
        open_barrier();
    }
}

unsigned Scheduler::thread() const {
    if (running_ == nobody) {
        throw Failure("emulator: an operation of a kernel's threads outside of a kernel");
    }
    return running_;
}

std::string Scheduler::place() const {
    return running_ == nobody ? std::string()
                              : "thread " + text(threadIdx) + " of block " + text(blockIdx) +
                                    " of kernel " + text(*launch_->kernel);
}

std::string Scheduler::deadlock() const {
    std::map<std::string, std::vector<unsigned>> waiting;
    for (unsigned i = 0; i < threads_.size(); ++i) {
        if (threads_[i].waits_at != nullptr) {
            waiting[threads_[i].waits_at].push_back(i);
        }
    }
    std::string message = "no thread of block " + text(blockIdx) + " of kernel " +
                          text(*launch_->kernel) + " can go on:";
    for (const auto& [name, threads] : waiting) {
        message += " " + std::to_string(threads.size()) + " wait at " + name +
                   ", the first of them " + text(threads_[threads.front()].index) + ";";
    }
    return message + " " + std::to_string(threads_.size() - live_) + " have ended" +
           hopper.open_barriers();
}

}  // namespace longlora::emulator
