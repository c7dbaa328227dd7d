#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "operand.hpp"
#include "scheduler.hpp"

namespace longlora::emulator {

// One instruction: c (64, columns) += a (64, 16) b (16, columns), or c = a b.
struct GroupProduct {
    Operand left;   // extent 0: in registers
    Operand right;  // its extent: the columns
    bool accumulates;

    bool is_left_in_registers() const { return left.extent == 0; }
    int columns() const { return right.extent; }
    bool operator==(const GroupProduct&) const = default;
};

// The asynchronous products of 128 threads. What each thread issues must be the same. c is NaN in the
// registers from the issue until a wait that covers it. Operands in shared memory are read as late as a
// GPU might: when the threads wait for the product and no other can go on; with a seed, at any moment
// after the issue.
class Warpgroup {
public:
    static constexpr unsigned size = 128;

    // By the running thread.
    void fence();
    // c: columns / 2 registers; a: 4 registers, or null.
    void issue(const GroupProduct& product, float* c, const std::uint32_t* a);
    void commit();
    // Until at most `pending` of the committed groups are under way.
    void wait(std::size_t pending);

    bool is_idle() const;

private:
    static constexpr int rows = 64;

    // c of all threads, while products compute it
    struct Accumulator {
        int columns;
        std::vector<float> values;  // (64, columns)
        std::size_t end;            // behind the last product that computes it
    };
    // A product, or the end of a group of them.
    struct Step {
        Step() = default;
        explicit Step(const GroupProduct& product);

        bool is_commit = true;
        GroupProduct product{};
        unsigned arrived = 0;  // threads
        std::shared_ptr<Accumulator> c;
        bool is_c_new = false;  // no product before it computes c
        std::array<float[sum_steps], rows> left{};
        std::vector<std::uint32_t> left_addresses;
        std::vector<std::uint32_t> right_addresses;
    };
    struct Poisoned {
        float* c;
        std::shared_ptr<Accumulator> values;
    };
    struct Member {
        std::size_t steps = 0;
        std::size_t groups = 0;
        std::vector<Poisoned> poisoned;
        bool has_fenced = false;
    };

    Member& member();
    Step& next_step(const GroupProduct* product);
    void take(Step& step, float* c);
    void give_back(Member& member, std::size_t end);
    void complete(Step& step);
    void compute_until(std::size_t end);
    void compute_one();

    std::deque<Step> steps_;  // from done_ on
    std::size_t begun_ = 0;   // by some thread
    std::size_t issued_ = 0;  // by all threads
    std::size_t due_ = 0;     // waited for
    std::size_t done_ = 0;
    std::vector<std::size_t> group_ends_;  // in steps
    std::array<Member, size> members_;
    Waiting waiting_;
};

// That of the running thread.
Warpgroup& warpgroup();

}  // namespace longlora::emulator
