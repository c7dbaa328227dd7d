#include "comm/communicator.hpp"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <thread>
#include <utility>

#include <mpi.h>

#include "comm/environment.hpp"
#include "comm/shared_progress.hpp"
#include "comm/watchdog.hpp"
#include "core/error.hpp"
#include "core/progress_point.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

using Clock = std::chrono::steady_clock;

double timeout_seconds = 600;

// MPI counts are int; longer arrays travel in pieces.
constexpr Index largest_count = Index{1} << 30U;

// MPI's own reduce-scatter takes twice the array for itself, and its reductions that can be polled
// move 0.4 GB/s.
constexpr Index reduced_at_once = Index{1} << 17U;
constexpr int reduction_tag = 1 << 15;  // above those of halos

template <class T>
MPI_Datatype type_of();
template <>
MPI_Datatype type_of<float>() {
    return MPI_FLOAT;
}
template <>
MPI_Datatype type_of<double>() {
    return MPI_DOUBLE;
}
template <>
MPI_Datatype type_of<std::int64_t>() {
    return MPI_INT64_T;
}
template <>
MPI_Datatype type_of<std::uint64_t>() {
    return MPI_UINT64_T;
}
template <>
MPI_Datatype type_of<std::int32_t>() {
    return MPI_INT32_T;
}
template <>
MPI_Datatype type_of<char>() {
    return MPI_CHAR;
}

void check(int code, const char* call) {
    ensure(code == MPI_SUCCESS,
           std::string(call) + " failed with MPI error " + std::to_string(code));
}

// For its life the others see that this rank waits.
class WaitScope {
public:
    WaitScope() { progress_point().is_waiting = true; }
    ~WaitScope() { progress_point().is_waiting = false; }
    WaitScope(const WaitScope&) = delete;
    WaitScope& operator=(const WaitScope&) = delete;
};

// Waits by polling: a rank that waits gives its core to those that compute, a hang gets a name.
template <class IsDone>
void wait_until(const IsDone& is_done) {
    const WaitScope waiting;
    const auto start = Clock::now();
    for (int polls = 0;; ++polls) {
        if (is_done()) {
            return;
        }
        if (polls < 256) {
            sched_yield();
            continue;
        }
        const std::chrono::duration<double> waited = Clock::now() - start;
        if (waited.count() >= timeout_seconds) {
            throw Error(timeout_message() + who_keeps_us_waiting(), ExitCode::failure);
        }
        std::this_thread::sleep_for(std::chrono::microseconds(waited.count() < 0.01 ? 20 : 200));
    }
}

void wait_for(MPI_Request& request) {
    wait_until([&] {
        int is_done = 0;
        check(MPI_Test(&request, &is_done, MPI_STATUS_IGNORE), "MPI_Test");
        return is_done != 0;
    });
}

// For the life of a wait. One that an Error ends must not leave a GPU that waits for ever.
class AbandonScope {
public:
    explicit AbandonScope(const std::unique_ptr<Request::Message>& message) : message_(message) {}
    ~AbandonScope() {
        if (message_) {
            message_->abandon();
        }
    }
    AbandonScope(const AbandonScope&) = delete;
    AbandonScope& operator=(const AbandonScope&) = delete;

private:
    const std::unique_ptr<Request::Message>& message_;  // null: done
};

// A long message is several of MPI's.
class MpiMessage : public Request::Message {
public:
    bool test() override {
        int is_done = 1;
        check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &is_done,
                          MPI_STATUSES_IGNORE),
              "MPI_Testall");
        return is_done != 0;
    }

    std::vector<MPI_Request> requests;
};

template <class T, class Start>
void in_pieces(View<Cpu, T, 1> values, const Start& start) {
    for (Index begin = 0; begin < values.size(); begin += largest_count) {
        const View<Cpu, T, 1> piece =
            values.slice({begin, std::min(values.size(), begin + largest_count)});
        MPI_Request request = MPI_REQUEST_NULL;
        start(piece, &request);
        wait_for(request);
    }
}

template <class T>
void all_reduce(View<Cpu, T, 1> values, MPI_Op operation, MPI_Comm comm) {
    in_pieces(values, [&](View<Cpu, T, 1> piece, MPI_Request* request) {
        check(MPI_Iallreduce(MPI_IN_PLACE, piece.data(), static_cast<int>(piece.size()),
                             type_of<T>(), operation, comm, request),
              "MPI_Iallreduce");
    });
}

int as_count(Index size) {
    ensure(size <= std::numeric_limits<int>::max(),
           "a piece of " + std::to_string(size) +
               " elements is too long for one MPI message; use more ranks");
    return static_cast<int>(size);
}

}  // namespace

void set_communication_timeout(double seconds) {
    if (seconds > 0) {
        timeout_seconds = seconds;
    }
}

double communication_timeout() { return timeout_seconds; }

std::string timeout_message() {
    return "no answer from other ranks for " + format_seconds(timeout_seconds) +
           " (comm.timeout), in " + progress_point().text() + "; ";
}

Request::Request(std::unique_ptr<Message> message) : message_(std::move(message)) {}
Request::~Request() = default;
Request::Request(Request&& other) noexcept = default;
Request& Request::operator=(Request&& other) noexcept = default;

bool Request::test() {
    if (message_ && message_->test()) {
        message_.reset();
    }
    return !message_;
}

void Request::wait(const std::function<void()>& meanwhile) {
    if (!message_) {
        return;
    }
    const AbandonScope abandoning(message_);
    wait_until([&] {
        if (meanwhile) {
            meanwhile();
        }
        return test();
    });
}

struct Communicator<Cpu>::Handle {
    MPI_Comm comm = MPI_COMM_NULL;
    bool is_owned = false;

    Handle(MPI_Comm c, bool owned) : comm(c), is_owned(owned) {}
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;
    ~Handle() {
        if (is_owned) {
            MPI_Comm_free(&comm);
        }
    }
};

Communicator<Cpu>::Communicator(std::unique_ptr<Handle> handle) : handle_(std::move(handle)) {}
Communicator<Cpu>::~Communicator() = default;
Communicator<Cpu>::Communicator(Communicator&& other) noexcept = default;
Communicator<Cpu>& Communicator<Cpu>::operator=(Communicator&& other) noexcept = default;

Communicator<Cpu> Communicator<Cpu>::world() {
    return Communicator(std::make_unique<Handle>(MPI_COMM_WORLD, false));
}

Communicator<Cpu> Communicator<Cpu>::split(int color, int key) const {
    const Watchdog watchdog;
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(handle_->comm, color, key, &part), "MPI_Comm_split");
    return Communicator(std::make_unique<Handle>(part, true));
}

int Communicator<Cpu>::rank() const {
    int rank = 0;
    MPI_Comm_rank(handle_->comm, &rank);
    return rank;
}

int Communicator<Cpu>::size() const {
    int size = 1;
    MPI_Comm_size(handle_->comm, &size);
    return size;
}

void Communicator<Cpu>::barrier() const {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ibarrier(handle_->comm, &request), "MPI_Ibarrier");
    wait_for(request);
}

template <class T>
void Communicator<Cpu>::all_reduce_sum(View<Cpu, T, 1> values) const {
    all_reduce(values, MPI_SUM, handle_->comm);
}

template <class T>
void Communicator<Cpu>::all_reduce_max(View<Cpu, T, 1> values) const {
    all_reduce(values, MPI_MAX, handle_->comm);
}

template <class T>
void Communicator<Cpu>::all_reduce_min(View<Cpu, T, 1> values) const {
    all_reduce(values, MPI_MIN, handle_->comm);
}

template <class T>
void Communicator<Cpu>::broadcast(View<Cpu, T, 1> values, int root) const {
    in_pieces(values, [&](View<Cpu, T, 1> piece, MPI_Request* request) {
        check(MPI_Ibcast(piece.data(), static_cast<int>(piece.size()), type_of<T>(), root,
                         handle_->comm, request),
              "MPI_Ibcast");
    });
}

// Each pair of ranks exchanges what the other owns (Thakur, Rabenseifner, Gropp 2005, pairwise
// exchange): each rank sends (P - 1) / P of the array, once, and needs memory for one part of it.
template <class T>
void Communicator<Cpu>::reduce_scatter_sum(View<Cpu, T, 1> values,
                                           const std::vector<Range>& pieces) const {
    const Range own = pieces[static_cast<std::size_t>(rank())];
    std::vector<T> received(static_cast<std::size_t>(std::min(own.size(), reduced_at_once)));
    const auto part = [](Range piece, Index begin) {
        return Range{std::min(piece.end, piece.begin + begin),
                     std::min(piece.end, piece.begin + begin + reduced_at_once)};
    };
    for (int distance = 1; distance < size(); ++distance) {
        const int to = (rank() + distance) % size();
        const int from = (rank() + size() - distance) % size();
        const Range theirs = pieces[static_cast<std::size_t>(to)];
        for (Index begin = 0; begin < std::max(own.size(), theirs.size());
             begin += reduced_at_once) {
            const View<Cpu, T, 1> sum = values.slice(part(own, begin));
            const View<Cpu, T, 1> addend(received.data(), sum.size());
            const View<Cpu, const T, 1> given = values.slice(part(theirs, begin));
            Request receiving = receive(addend, from, reduction_tag);
            Request sending = send(given, to, reduction_tag);
            receiving.wait();
            std::transform(sum.begin(), sum.end(), addend.begin(), sum.begin(), std::plus<T>());
            sending.wait();
        }
    }
}

template <class T>
void Communicator<Cpu>::all_gather(View<Cpu, T, 1> values, const std::vector<Range>& pieces) const {
    std::vector<int> counts;
    std::vector<int> places;
    for (const Range& piece : pieces) {
        counts.push_back(as_count(piece.size()));
        places.push_back(as_count(piece.begin));
    }
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, values.data(), counts.data(),
                          places.data(), type_of<T>(), handle_->comm, &request),
          "MPI_Iallgatherv");
    wait_for(request);
}

template <class T>
Request Communicator<Cpu>::send(View<Cpu, const T, 1> values, int to, int tag) const {
    auto message = std::make_unique<MpiMessage>();
    for (Index begin = 0; begin < values.size(); begin += largest_count) {
        const Index count = std::min(values.size() - begin, largest_count);
        check(MPI_Isend(values.data() + begin, static_cast<int>(count), type_of<T>(), to, tag,
                        handle_->comm, &message->requests.emplace_back()),
              "MPI_Isend");
    }
    return Request(std::move(message));
}

template <class T>
Request Communicator<Cpu>::receive(View<Cpu, T, 1> values, int from, int tag) const {
    auto message = std::make_unique<MpiMessage>();
    for (Index begin = 0; begin < values.size(); begin += largest_count) {
        const Index count = std::min(values.size() - begin, largest_count);
        check(MPI_Irecv(values.data() + begin, static_cast<int>(count), type_of<T>(), from, tag,
                        handle_->comm, &message->requests.emplace_back()),
              "MPI_Irecv");
    }
    return Request(std::move(message));
}

std::string Communicator<Cpu>::broadcast_text(std::string text, int root) const {
    auto size = static_cast<std::int64_t>(text.size());
    broadcast(View<Cpu, std::int64_t, 1>(&size, 1), root);
    text.resize(static_cast<std::size_t>(size));
    broadcast(View<Cpu, char, 1>(text.data(), size), root);
    return text;
}

std::vector<std::string> Communicator<Cpu>::gather_texts(const std::string& text) const {
    std::vector<std::string> texts;
    for (int root = 0; root < size(); ++root) {
        texts.push_back(broadcast_text(root == rank() ? text : std::string(), root));
    }
    return texts;
}

std::vector<Range> equal_pieces(Index count, int ranks, Index unit) {
    const Index units = ceil_div(count, unit);
    std::vector<Range> pieces;
    for (Index r = 0; r < ranks; ++r) {
        pieces.push_back({std::min(count, units * r / ranks * unit),
                          std::min(count, units * (r + 1) / ranks * unit)});
    }
    return pieces;
}

#define LONGLORA_REDUCTIONS(T)                                                                     \
    template void Communicator<Cpu>::all_reduce_sum(View<Cpu, T, 1>) const;                        \
    template void Communicator<Cpu>::all_reduce_max(View<Cpu, T, 1>) const;                        \
    template void Communicator<Cpu>::all_reduce_min(View<Cpu, T, 1>) const;                        \
    template void Communicator<Cpu>::broadcast(View<Cpu, T, 1>, int) const;                        \
    template void Communicator<Cpu>::reduce_scatter_sum(View<Cpu, T, 1>,                           \
                                                        const std::vector<Range>&) const;          \
    template void Communicator<Cpu>::all_gather(View<Cpu, T, 1>, const std::vector<Range>&) const; \
    template Request Communicator<Cpu>::send(View<Cpu, const T, 1>, int, int) const;               \
    template Request Communicator<Cpu>::receive(View<Cpu, T, 1>, int, int) const
LONGLORA_REDUCTIONS(float);
LONGLORA_REDUCTIONS(double);
LONGLORA_REDUCTIONS(std::int64_t);
LONGLORA_REDUCTIONS(std::uint64_t);
LONGLORA_REDUCTIONS(std::int32_t);
template void Communicator<Cpu>::broadcast(View<Cpu, char, 1>, int) const;
template void Communicator<Cpu>::all_gather(View<Cpu, char, 1>, const std::vector<Range>&) const;
template Request Communicator<Cpu>::send(View<Cpu, const char, 1>, int, int) const;
template Request Communicator<Cpu>::receive(View<Cpu, char, 1>, int, int) const;
#undef LONGLORA_REDUCTIONS

}  // namespace longlora
