#include "core/arena.hpp"

#include <cstdint>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "core/device_memory.hpp"
#include "core/error.hpp"
using namespace longlora;

namespace {

// The code that a planner measures and a run executes: odd sizes, several types.
struct Workspace {
    explicit Workspace(Arena<Cpu>& arena)
        : a(arena.vector<float>(3)),
          b(arena.matrix<double>(5, 7)),
          c(arena.vector<char>(1)),
          d(arena.matrix<float>(1000, 333)),
          none(arena.vector<float>(0)) {}

    View<Cpu, float, 1> a;
    View<Cpu, double, 2> b;
    View<Cpu, char, 1> c;
    View<Cpu, float, 2> d;
    View<Cpu, float, 1> none;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(arena_test)

BOOST_AUTO_TEST_CASE(measuring_equals_real_usage) {
    auto measuring = Arena<Cpu>::measuring("workspace");
    const Workspace measured(measuring);
    BOOST_TEST(measuring.is_measuring());
    BOOST_TEST(measured.d.data() == nullptr);
    Arena<Cpu> real("workspace", measuring.used());
    const Workspace used(real);
    BOOST_TEST(real.used() == measuring.used());
    BOOST_TEST(real.used() == real.capacity());
    BOOST_TEST(!real.is_measuring());
}

BOOST_AUTO_TEST_CASE(arrays_may_share_a_place) {
    const auto fill = [](Arena<Cpu>& arena) {
        const auto before = arena.vector<float>(1);
        const std::size_t place = arena.used();
        const auto longer = arena.vector<char>(300);
        const auto shorter = arena.from(place).vector<double>(2);
        const auto after = arena.from(arena.used()).vector<float>(1);
        return std::vector<const void*>{before.data(), longer.data(), shorter.data(), after.data()};
    };
    auto measuring = Arena<Cpu>::measuring("workspace");
    fill(measuring);
    BOOST_TEST(measuring.used() == 64U + 320U + 64U);
    Arena<Cpu> arena("workspace", measuring.used());
    const auto data = fill(arena);
    BOOST_TEST(data[1] == data[2]);
    BOOST_TEST(data[0] != data[1]);
    BOOST_TEST((static_cast<const char*>(data[3]) - static_cast<const char*>(data[1]) == 320));
    BOOST_TEST(arena.used() == measuring.used());
    arena.from(0);
    BOOST_CHECK_THROW(arena.vector<char>(449), Error);
}

BOOST_AUTO_TEST_CASE(views_are_aligned_zeroed_and_apart) {
    Arena<Cpu> arena("workspace", 2U << 20U);
    const Workspace work(arena);
    for (const void* data :
         {static_cast<const void*>(work.a.data()), static_cast<const void*>(work.b.data()),
          static_cast<const void*>(work.c.data()), static_cast<const void*>(work.d.data())}) {
        BOOST_TEST(reinterpret_cast<std::uintptr_t>(data) % 64 == 0U);
    }
    for (const double value : work.b.flat()) {
        BOOST_TEST(value == 0);
    }
    for (float& value : work.d.flat()) {
        value = 1;
    }
    for (const double value : work.b.flat()) {
        BOOST_TEST(value == 0);
    }
}

BOOST_AUTO_TEST_CASE(too_small_an_arena_is_an_error_that_names_it) {
    Arena<Cpu> arena("halo", 128);
    arena.vector<float>(32);
    try {
        arena.vector<float>(1);
        BOOST_ERROR("no error");
    } catch (const Error& error) {
        BOOST_TEST((error.code() == ExitCode::failure));
        BOOST_TEST((std::string(error.what()).find("halo") != std::string::npos), error.what());
    }
}

BOOST_AUTO_TEST_CASE(moving_hands_the_memory_over) {
    Arena<Cpu> first("first", 4096);
    auto view = first.vector<float>(4);
    view[2] = 5;
    Arena<Cpu> second = std::move(first);
    BOOST_TEST(second.used() == 64U);
    BOOST_TEST(view[2] == 5);
    Arena<Cpu> third("third", 64);
    third = std::move(second);
    BOOST_TEST(third.name() == "first");
    BOOST_TEST(third.capacity() == 4096U);
    BOOST_TEST(view[2] == 5);
}

BOOST_AUTO_TEST_CASE(a_buffer_holds_one_array) {
    Buffer<Cpu, double> buffer(17);
    BOOST_TEST(buffer.size() == 17);
    buffer.view()[16] = 3;
    const Buffer<Cpu, double> moved = std::move(buffer);
    BOOST_TEST(moved.view()[16] == 3);
    BOOST_TEST((Buffer<Cpu, float>(0).size() == 0));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_CASE(a_ban_refuses_memory_while_it_lives) {
    Arena<Cpu> before("test", 128);
    {
        const AllocationBan ban;
        BOOST_TEST(before.vector<float>(4).size() == 4);  // was taken before
        BOOST_CHECK_EXCEPTION(Arena<Cpu>("late", 64), Error, [](const Error& error) {
            return std::string(error.what()).find("late") != std::string::npos;
        });
        BOOST_CHECK_NO_THROW(Arena<Cpu>::measuring("test"));
    }
    BOOST_CHECK_NO_THROW(Arena<Cpu>("later", 64));
}
