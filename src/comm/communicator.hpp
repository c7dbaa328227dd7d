#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/stream.hpp"
#include "core/view.hpp"

namespace longlora {

// Seconds that a collective or message may take before the run ends with the name of rank, phase
// and layer (comm.timeout). Applies to every wait of this process.
void set_communication_timeout(double seconds);
double communication_timeout();
std::string timeout_message();  // says where this rank is (core/progress_point.hpp); ends in "; "

// A message under way. Waiting for it yields the processor, so that ranks may outnumber cores.
class Request {
public:
    Request() = default;
    ~Request();
    Request(Request&& other) noexcept;
    Request& operator=(Request&& other) noexcept;

    // Of one message; made by communicators.
    class Message {
    public:
        virtual ~Message() = default;
        virtual bool test() = 0;
        // Nobody will look at it again, though it is not done: an Error is under way.
        virtual void abandon() noexcept {}
    };
    explicit Request(std::unique_ptr<Message> message);

    bool test();  // true when done; also lets MPI make progress
    // Throws Error (failure) after the timeout. `meanwhile` is called between looks at the message.
    void wait(const std::function<void()>& meanwhile = {});

private:
    std::unique_ptr<Message> message_;  // null: done
};

// A group of ranks. Counts and types come from the views, so they cannot disagree.
template <class Device>
class Communicator;

template <>
class Communicator<Cpu> {
public:
    static Communicator world();
    ~Communicator();
    Communicator(Communicator&& other) noexcept;
    Communicator& operator=(Communicator&& other) noexcept;

    // Ranks of the same color, ordered by key.
    Communicator split(int color, int key) const;
    int rank() const;
    int size() const;

    // T: float, double, std::int64_t, std::uint64_t, std::int32_t or std::byte-sized char.
    template <class T>
    void all_reduce_sum(View<Cpu, T, 1> values) const;
    template <class T>
    void all_reduce_max(View<Cpu, T, 1> values) const;
    template <class T>
    void all_reduce_min(View<Cpu, T, 1> values) const;
    template <class T>
    void broadcast(View<Cpu, T, 1> values, int root) const;
    // values: the whole array on each rank. This rank's piece of it becomes that of the sum, the rest
    // stays. pieces[r] is rank r's range; the ranges follow each other and cover the array.
    template <class T>
    void reduce_scatter_sum(View<Cpu, T, 1> values, const std::vector<Range>& pieces) const;
    // Each rank has filled pieces[rank()] of values; afterwards all have all of it.
    template <class T>
    void all_gather(View<Cpu, T, 1> values, const std::vector<Range>& pieces) const;
    template <class T>
    Request send(View<Cpu, const T, 1> values, int to, int tag) const;
    template <class T>
    Request receive(View<Cpu, T, 1> values, int from, int tag) const;
    void barrier() const;

    // Arrays of the device, in the order of its stream: on the CPU what is above.
    template <class T>
    void reduce_scatter_sum(const Stream<Cpu>&, View<Cpu, T, 1> values,
                            const std::vector<Range>& pieces) const {
        reduce_scatter_sum(values, pieces);
    }
    template <class T>
    void all_gather(const Stream<Cpu>&, View<Cpu, T, 1> values,
                    const std::vector<Range>& pieces) const {
        all_gather(values, pieces);
    }
    template <class T>
    Request send(const Stream<Cpu>&, View<Cpu, const T, 1> values, int to, int tag) const {
        return send(values, to, tag);
    }
    template <class T>
    Request receive(const Stream<Cpu>&, View<Cpu, T, 1> values, int from, int tag) const {
        return receive(values, from, tag);
    }
    // All messages of a phase are posted. Those of the CPU are under way by now.
    void start_messages() const {}

    // One value from each rank; the same on all.
    template <class T>
    T sum(T value) const {
        all_reduce_sum(View<Cpu, T, 1>(&value, 1));
        return value;
    }
    template <class T>
    T max(T value) const {
        all_reduce_max(View<Cpu, T, 1>(&value, 1));
        return value;
    }
    template <class T>
    T min(T value) const {
        all_reduce_min(View<Cpu, T, 1>(&value, 1));
        return value;
    }
    std::string broadcast_text(std::string text, int root) const;
    std::vector<std::string> gather_texts(const std::string& text) const;  // on every rank

private:
    struct Handle;
    explicit Communicator(std::unique_ptr<Handle> handle);
    std::unique_ptr<Handle> handle_;
};

// [count r / ranks, count (r+1) / ranks) for each rank r, cut at multiples of `unit` elements.
std::vector<Range> equal_pieces(Index count, int ranks, Index unit = 16);

}  // namespace longlora
