#include "warpgroup.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "hopper.hpp"

namespace longlora::emulator {

namespace {

constexpr std::uint32_t poison = 0xFFFFFFFF;

unsigned number_in_group() { return scheduler.thread() % Warpgroup::size; }

// Which element of c the register is.
int row_of(unsigned thread, int i) {
    return static_cast<int>(16 * (thread / 32) + thread % 32 / 4) + 8 * (i / 2 % 2);
}
int column_of(unsigned thread, int i) {
    return 8 * (i / 4) + 2 * static_cast<int>(thread % 4) + i % 2;
}

void check_poison(const float* c, int registers) {
    for (int i = 0; i < registers; ++i) {
        if (std::bit_cast<std::uint32_t>(c[i]) != poison) {
            fail("c[" + std::to_string(i) + "] was changed while a product computed it");
        }
    }
}

void unpack_left(const std::uint32_t* a, float (*left)[sum_steps]) {
    const unsigned thread = number_in_group();
    for (int j = 0; j < 4; ++j) {
        float* const pair = &left[row_of(thread, 2 * j)][column_of(thread, 2 * j)];
        pair[0] = std::bit_cast<float>(a[j] << 16U);
        pair[1] = std::bit_cast<float>(a[j] & 0xFFFF0000U);
    }
}

// Eight columns: tests wait for many products.
using Columns [[gnu::vector_size(8 * sizeof(float))]] = float;

// The sum of 16 in float, in order, and then added to c.
void multiply(const float (*a)[sum_steps], const float (*b)[most_columns], float* c, int rows,
              int columns) {
    constexpr int width = 8;
    for (int first = 0; first < columns; first += width) {
        Columns right[sum_steps];
        for (int k = 0; k < sum_steps; ++k) {
            std::memcpy(&right[k], &b[k][first], sizeof right[k]);
        }
        for (int row = 0; row < rows; ++row) {
            Columns sum{};
            for (int k = 0; k < sum_steps; ++k) {
                sum += a[row][k] * right[k];
            }
            Columns old;
            std::memcpy(&old, c + row * columns + first, sizeof old);
            old += sum;
            std::memcpy(c + row * columns + first, &old, sizeof old);
        }
    }
}

}  // namespace

Warpgroup& warpgroup() {
    auto& groups = hopper.warpgroups;
    if (groups.empty()) {
        groups.resize((scheduler.threads() + Warpgroup::size - 1) / Warpgroup::size);
    }
    return groups[scheduler.thread() / Warpgroup::size];
}

Warpgroup::Member& Warpgroup::member() { return members_[number_in_group()]; }

void Warpgroup::fence() { member().has_fenced = true; }

void Warpgroup::issue(const GroupProduct& product, float* c, const std::uint32_t* a) {
    if (!member().has_fenced) {
        fail("multiply_async without fence_products since the last wait_for_products");
    }
    Step& step = next_step(&product);
    take(step, c);
    if (a != nullptr) {
        unpack_left(a, step.left.data());
    }
    complete(step);
}

void Warpgroup::commit() {
    Step& step = next_step(nullptr);
    ++member().groups;
    complete(step);
}

Warpgroup::Step::Step(const GroupProduct& product) : is_commit(false), product(product) {
    if (!product.is_left_in_registers()) {
        left_addresses = addresses_of(product.left);
    }
    right_addresses = addresses_of(product.right);
}

// The step that the running thread comes to, made by the first thread that does; null: a commit.
Warpgroup::Step& Warpgroup::next_step(const GroupProduct* product) {
    const std::size_t number = member().steps++;
    if (number == begun_) {
        if (product == nullptr) {
            steps_.emplace_back();
        } else {
            require_hopper("multiply_async");
            steps_.emplace_back(*product);
        }
        ++begun_;
    }
    Step& step = steps_[number - done_];
    const bool is_commit = product == nullptr;
    if (step.is_commit != is_commit || (!is_commit && step.product != *product)) {
        fail(std::string(is_commit ? "commit_products" : "multiply_async") +
             " where other threads of the warpgroup " +
             (step.is_commit == is_commit ? "have other operands"
              : step.is_commit            ? "commit"
                                          : "multiply"));
    }
    return step;
}

// Takes c out of the registers, unless a product before this one has done so.
void Warpgroup::take(Step& step, float* c) {
    const int registers = step.product.columns() / 2;
    auto& poisoned = member().poisoned;
    const auto known = std::find_if(poisoned.begin(), poisoned.end(), [&](const Poisoned& p) {
        return p.c < c + registers && c < p.c + p.values->columns / 2;
    });
    const bool is_known = known != poisoned.end();
    if (is_known && (known->c != c || known->values->columns != step.product.columns())) {
        fail("multiply_async to a part of what another product computes");
    }
    if (step.arrived == 0) {
        step.is_c_new = !is_known;
        const auto elements = static_cast<std::size_t>(rows * step.product.columns());
        step.c = is_known ? known->values
                          : std::make_shared<Accumulator>(Accumulator{
                                step.product.columns(), std::vector<float>(elements), 0});
        step.c->end = begun_;
    }
    if (is_known ? known->values != step.c : !step.is_c_new) {
        fail("multiply_async to another c than other threads of the warpgroup");
    }
    if (is_known) {
        check_poison(c, registers);
        return;
    }
    const unsigned thread = number_in_group();
    for (int i = 0; i < registers; ++i) {
        const int at = row_of(thread, i) * step.c->columns + column_of(thread, i);
        step.c->values[static_cast<std::size_t>(at)] = c[i];
        c[i] = std::bit_cast<float>(poison);
    }
    poisoned.push_back({c, step.c});
}

void Warpgroup::complete(Step& step) {
    if (++step.arrived < size) {
        return;
    }
    ++issued_;
    if (step.is_commit) {
        group_ends_.push_back(issued_);
        scheduler.release(waiting_);
        return;
    }
    hopper.writes.check(step.left_addresses, "multiply_async");
    hopper.writes.check(step.right_addresses, "multiply_async");
    if (scheduler.happens(4)) {
        compute_until(issued_);
    } else if (scheduler.happens(2)) {
        scheduler.later([this, end = issued_] { compute_until(end); });
    }
}

void Warpgroup::wait(std::size_t pending) {
    Member& mine = member();
    mine.has_fenced = false;
    if (mine.groups <= pending) {
        return;
    }
    const std::size_t groups = mine.groups - pending;
    while (group_ends_.size() < groups) {
        scheduler.wait_in(waiting_, "wait_for_products");
    }
    const std::size_t end = group_ends_[groups - 1];
    if (due_ < end) {
        due_ = end;
        scheduler.later([this, end] {
            compute_until(end);
            scheduler.release(waiting_);
        });
    }
    while (done_ < end) {
        scheduler.wait_in(waiting_, "wait_for_products");
    }
    give_back(mine, end);
}

void Warpgroup::give_back(Member& member, std::size_t end) {
    const unsigned thread = number_in_group();
    std::erase_if(member.poisoned, [&](const Poisoned& p) {
        const Accumulator& from = *p.values;
        if (from.end > end) {
            return false;
        }
        const int registers = from.columns / 2;
        check_poison(p.c, registers);
        for (int i = 0; i < registers; ++i) {
            const int at = row_of(thread, i) * from.columns + column_of(thread, i);
            p.c[i] = from.values[static_cast<std::size_t>(at)];
        }
        return true;
    });
}

bool Warpgroup::is_idle() const {
    return std::all_of(steps_.begin(), steps_.end(),
                       [](const Step& step) { return step.is_commit; });
}

void Warpgroup::compute_until(std::size_t end) {
    while (done_ < end) {
        if (!steps_.front().is_commit) {
            compute_one();
        }
        steps_.pop_front();
        ++done_;
    }
}

void Warpgroup::compute_one() {
    Step& step = steps_.front();
    const GroupProduct& product = step.product;
    if (!product.is_left_in_registers()) {
        load_left(product.left, step.left_addresses, step.left.data());
    }
    alignas(32) float right[sum_steps][most_columns];
    load_right(product.right, step.right_addresses, right);
    if (!product.accumulates) {
        std::fill(step.c->values.begin(), step.c->values.end(), 0.0F);
    }
    multiply(step.left.data(), right, step.c->values.data(), rows, product.columns());
}

}  // namespace longlora::emulator
