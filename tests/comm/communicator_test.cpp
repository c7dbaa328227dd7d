#include "comm/communicator.hpp"

#include <algorithm>
#include <numeric>

#include <boost/test/unit_test.hpp>

#include "core/error.hpp"
#include "core/progress_point.hpp"
#include "support/files.hpp"

using namespace longlora;

namespace {

template <class T>
View<Cpu, T, 1> view(std::vector<T>& values) {
    return {values.data(), static_cast<Index>(values.size())};
}
template <class T>
View<Cpu, const T, 1> const_view(const std::vector<T>& values) {
    return {values.data(), static_cast<Index>(values.size())};
}

// value(i) for each place; small integers, so that sums are exact in every type.
template <class T, class Value>
std::vector<T> filled(Index size, const Value& value) {
    std::vector<T> values(static_cast<std::size_t>(size));
    for (Index i = 0; i < size; ++i) {
        values[static_cast<std::size_t>(i)] = static_cast<T>(value(i));
    }
    return values;
}

// Pieces of r, r + 1, ... elements, with none for ranks 0 and, from three ranks on, the last.
std::vector<Range> uneven_pieces(int ranks, Index unit = 1) {
    std::vector<Range> pieces;
    Index begin = 0;
    for (Index r = 0; r < ranks; ++r) {
        const bool is_empty = ranks > 1 && (r == 0 || (ranks > 2 && r + 1 == ranks));
        const Index end = begin + (is_empty ? 0 : unit * (3 * r + 2));
        pieces.push_back({begin, end});
        begin = end;
    }
    return pieces;
}

template <class T>
void reductions() {
    const auto world = Communicator<Cpu>::world();
    const Index ranks = world.size();
    const Index rank = world.rank();
    for (const Index size : {0, 1, 7, 1000}) {
        auto sum = filled<T>(size, [&](Index i) { return i * (rank + 1); });
        auto largest = filled<T>(size, [&](Index i) { return (rank + i) % ranks; });
        auto smallest = filled<T>(size, [&](Index i) { return 5 + (rank + i) % ranks; });
        world.all_reduce_sum(view(sum));
        world.all_reduce_max(view(largest));
        world.all_reduce_min(view(smallest));
        BOOST_TEST((sum == filled<T>(size, [&](Index i) { return i * ranks * (ranks + 1) / 2; })));
        BOOST_TEST((largest == filled<T>(size, [&](Index) { return ranks - 1; })));
        BOOST_TEST((smallest == filled<T>(size, [&](Index) { return 5; })));
    }
    BOOST_TEST(world.sum(static_cast<T>(rank + 1)) == static_cast<T>(ranks * (ranks + 1) / 2));
    BOOST_TEST(world.max(static_cast<T>(rank)) == static_cast<T>(ranks - 1));
    BOOST_TEST(world.min(static_cast<T>(rank + 2)) == static_cast<T>(2));
}

template <class T>
void broadcasts() {
    const auto world = Communicator<Cpu>::world();
    for (int root = 0; root < world.size(); ++root) {
        auto values = filled<T>(9, [&](Index i) { return 10 * world.rank() + i; });
        world.broadcast(view(values), root);
        BOOST_TEST((values == filled<T>(9, [&](Index i) { return 10 * root + i; })));
    }
}

template <class T>
void scatter_and_gather(Index unit) {
    const auto world = Communicator<Cpu>::world();
    const auto pieces = uneven_pieces(world.size(), unit);
    const Range mine = pieces[static_cast<std::size_t>(world.rank())];
    const Index size = pieces.back().end;
    const auto addends = filled<T>(size, [&](Index i) { return i + 100 * world.rank(); });
    auto values = addends;
    world.reduce_scatter_sum(view(values), pieces);
    const std::vector<T> piece(values.begin() + mine.begin, values.begin() + mine.end);
    const Index ranks = world.size();
    const auto sum = [&](Index i) { return ranks * i + 100 * ranks * (ranks - 1) / 2; };
    BOOST_TEST((piece == filled<T>(mine.size(), [&](Index i) { return sum(mine.begin + i); })));
    std::copy_n(addends.begin() + mine.begin, mine.size(), values.begin() + mine.begin);
    BOOST_TEST((values == addends));  // the rest stayed

    std::vector<T> whole(static_cast<std::size_t>(size));
    std::copy(piece.begin(), piece.end(), whole.begin() + mine.begin);
    world.all_gather(view(whole), pieces);
    BOOST_TEST((whole == filled<T>(size, sum)));
}

template <class T>
void ring(Index size) {
    const auto world = Communicator<Cpu>::world();
    const int next = (world.rank() + 1) % world.size();
    const int previous = (world.rank() + world.size() - 1) % world.size();
    const auto out = filled<T>(size, [&](Index i) { return i % 50 + world.rank(); });
    std::vector<T> in(out.size());
    Request receive = world.receive(view(in), previous, 7);
    Request send = world.send(const_view(out), next, 7);
    receive.wait();
    send.wait();
    BOOST_TEST(receive.test());  // what is done stays done
    BOOST_TEST((in == filled<T>(size, [&](Index i) { return i % 50 + previous; })));
}

template <class Check>
void for_types(const Check& check) {
    check(float{});
    check(double{});
    check(std::int64_t{});
    check(std::uint64_t{});
    check(std::int32_t{});
}

}  // namespace

BOOST_AUTO_TEST_CASE(reductions_are_exact_on_integers) {
    for_types([](auto type) { reductions<decltype(type)>(); });
}

BOOST_AUTO_TEST_CASE(broadcast_reaches_all_from_any_root) {
    for_types([](auto type) { broadcasts<decltype(type)>(); });
}

BOOST_AUTO_TEST_CASE(pieces_may_be_uneven_and_empty) {
    for (const Index unit : {1, 60000}) {  // the sums of long pieces are made in parts
        for_types([&](auto type) { scatter_and_gather<decltype(type)>(unit); });
    }
}

// Above some kilobytes MPI waits for the receiver: the other path of a send.
BOOST_AUTO_TEST_CASE(messages_of_any_length_go_round_a_ring) {
    for (const Index size : {0, 1, 1000, 300000}) {
        for_types([&](auto type) { ring<decltype(type)>(size); });
    }
}

BOOST_AUTO_TEST_CASE(messages_with_one_tag_keep_their_order_and_tags_do_not_mix) {
    const auto world = Communicator<Cpu>::world();
    const int next = (world.rank() + 1) % world.size();
    const int previous = (world.rank() + world.size() - 1) % world.size();
    std::vector<std::int32_t> out = {1, 2, 3};
    std::vector<std::int32_t> in(3);
    std::vector<Request> requests;
    const auto part = [](auto& values, Index i) { return view(values).slice({i, i + 1}); };
    requests.push_back(world.receive(part(in, 2), previous, 5));
    requests.push_back(world.receive(part(in, 0), previous, 4));
    requests.push_back(world.receive(part(in, 1), previous, 4));
    for (const auto& [place, tag] : {std::pair{0, 4}, {1, 4}, {2, 5}}) {
        requests.push_back(
            world.send(View<Cpu, const std::int32_t, 1>(part(out, place)), next, tag));
    }
    for (Request& request : requests) {
        request.wait();
    }
    BOOST_TEST(in == out, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_request_can_be_asked_without_waiting) {
    const auto world = Communicator<Cpu>::world();
    BOOST_TEST(Request().test());
    if (world.size() == 1) {
        return;
    }
    std::vector<double> value = {0};
    if (world.rank() == 0) {
        Request receive = world.receive(view(value), 1, 1);
        BOOST_TEST(!receive.test());  // rank 1 waits for the barrier
        world.barrier();
        while (!receive.test()) {
        }
        BOOST_TEST(value[0] == 3);
        return;
    }
    world.barrier();
    if (world.rank() == 1) {
        value = {3};
        world.send(const_view(value), 0, 1).wait();
    }
}

BOOST_AUTO_TEST_CASE(texts_travel_whole_empty_ones_too) {
    const auto world = Communicator<Cpu>::world();
    const auto text_of = [](int rank) {
        return std::string(static_cast<std::size_t>(rank * 5), static_cast<char>('a' + rank));
    };
    for (int root = 0; root < world.size(); ++root) {
        BOOST_TEST(world.broadcast_text(text_of(world.rank()), root) == text_of(root));
    }
    const auto texts = world.gather_texts(text_of(world.rank()));
    BOOST_TEST(static_cast<int>(texts.size()) == world.size());
    for (int rank = 0; rank < static_cast<int>(texts.size()); ++rank) {
        BOOST_TEST(texts[static_cast<std::size_t>(rank)] == text_of(rank));
    }
}

BOOST_AUTO_TEST_CASE(split_groups_by_color_and_orders_by_key) {
    const auto world = Communicator<Cpu>::world();
    const int color = world.rank() % 2;
    const auto part = world.split(color, -world.rank());
    const int members = (world.size() + 1 - color) / 2;
    BOOST_TEST(part.size() == members);
    BOOST_TEST(part.rank() == members - 1 - world.rank() / 2);
    const auto sum = part.sum<std::int64_t>(world.rank());
    std::int64_t expected = 0;
    for (int rank = color; rank < world.size(); rank += 2) {
        expected += rank;
    }
    BOOST_TEST(sum == expected);
}

BOOST_AUTO_TEST_CASE(a_moved_communicator_still_works) {
    auto first = Communicator<Cpu>::world().split(0, 0);
    auto second = Communicator<Cpu>::world().split(Communicator<Cpu>::world().rank() % 2, 0);
    second = std::move(first);
    BOOST_TEST(second.size() == Communicator<Cpu>::world().size());
    BOOST_TEST(second.sum<std::int64_t>(1) == second.size());
}

BOOST_AUTO_TEST_CASE(equal_pieces_cover_everything_in_order) {
    for (const Index count : {0, 1, 15, 16, 17, 100, 4096, 4097}) {
        for (const int ranks : {1, 2, 3, 4, 8, 33}) {
            for (const Index unit : {1, 16, 4096}) {
                const auto pieces = equal_pieces(count, ranks, unit);
                BOOST_TEST(static_cast<int>(pieces.size()) == ranks);
                BOOST_TEST(pieces.front().begin == 0);
                BOOST_TEST(pieces.back().end == count);
                const Index fair = (count + unit - 1) / unit / ranks * unit;
                for (std::size_t r = 0; r < pieces.size(); ++r) {
                    BOOST_TEST((pieces[r].end == count || pieces[r].end % unit == 0));
                    BOOST_TEST((r == 0 || pieces[r].begin == pieces[r - 1].end));
                    BOOST_TEST(pieces[r].size() <= fair + unit);
                }
            }
        }
    }
}

// Rank 1 sends only after rank 0 has given up once: no clock decides how this test ends.
BOOST_AUTO_TEST_CASE(a_wait_that_lasts_too_long_says_where) {
    const auto world = Communicator<Cpu>::world();
    if (world.size() == 1) {
        return;
    }
    std::vector<std::int32_t> value = {0};
    if (world.rank() == 0) {
        const ProgressPoint before = progress_point();
        progress_point() = {.phase = "halo_wait", .step = 12, .chunk = 3, .layer = 7};
        set_communication_timeout(0.3);
        Request answer = world.receive(view(value), 1, 2);
        std::string message = "(no error)";
        ExitCode code = ExitCode::done;
        try {
            answer.wait();
        } catch (const Error& error) {
            message = error.what();
            code = error.code();
        }
        set_communication_timeout(600);
        progress_point() = before;
        for (const char* part : {"halo_wait", "step 12", "chunk 3", "layer 7", "comm.timeout"}) {
            BOOST_TEST(test::contains(message, part), message << " lacks " << part);
        }
        BOOST_TEST((code == ExitCode::failure));
        world.send(const_view(value), 1, 3).wait();
        answer.wait();
        BOOST_TEST(value[0] == 42);
    } else if (world.rank() == 1) {
        world.receive(view(value), 0, 3).wait();
        value = {42};
        world.send(const_view(value), 0, 2).wait();
    }
}
