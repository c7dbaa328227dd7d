#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <typeinfo>

#include "vector_types.h"

// Runs the threads of a kernel on the CPU, each on a stack of its own: a thread goes on until it
// must wait for others. Blocks follow one another, and so do launches of several host threads, so
// __shared__ variables are ordinary static ones.
namespace longlora::emulator {

// What a GPU would answer with wrong values or not at all; thrown out of the launch.
class Failure : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

struct Launch {
    dim3 grid;
    dim3 block;
    std::size_t shared_bytes;
    const std::type_info* kernel;  // its type, which names the operands
};

// A call without arguments, as a value that owns nothing.
struct Body {
    const void* object;
    void (*call)(const void* object);

    template <class F>
    explicit Body(const F& f)
        : object(&f), call([](const void* o) { (*static_cast<const F*>(o))(); }) {}
    void operator()() const { call(object); }
};

// Every thread of every block calls `body`.
void run(const Launch& launch, const Body& body);

// The order of threads and blocks: as they are numbered, or by chance from a seed. At first what the
// environment variable LONGLORA_EMULATOR_SEED says. A kernel's result must not depend on it.
void set_order(std::optional<std::uint64_t> seed);

// The compute capability of the device: 8.0 or 9.0, Hopper's, with more shared memory and with what
// kernels/cuda/hopper/machine.cuh does. At first what the environment variable
// LONGLORA_EMULATOR_CAPABILITY says ("9.0"), or 8.0.
void set_capability(int major, int minor);

// ---- for what runs in a kernel ----

constexpr int warp_lanes = 32;
constexpr unsigned full_mask = 0xFFFFFFFFU;

[[noreturn]] void fail(const std::string& what);  // names the block and the thread

// Waits until all threads of the block that have not ended are here. The answer: in how many
// `predicate` holds.
int barrier(bool predicate);

// operands[lane], null for lanes that do not take part
using Operation = void (*)(void* const* operands);
// Waits until all lanes of the mask that have not ended are here; the last of them does the
// operation for all.
void meet_warp(const char* name, unsigned mask, void* operand, Operation operation);
// The same for an instruction that the whole warp must execute.
void meet_whole_warp(const char* name, void* operand, Operation operation);

int lane();

unsigned char* dynamic_shared();
// Whether the bytes lie in shared memory, dynamic or of a __shared__ variable.
bool is_shared(const void* from, std::size_t bytes);

// ---- asynchronous copies of the running thread ----
// What is under way is poisoned in its place at once and copied when it is waited for, the latest
// moment that a GPU might choose. A thread that reads too early, or is overtaken, reads NaN.
void queue_copy(void* shared, const void* global, int bytes);
void close_copies();
void finish_copies(int pending);

}  // namespace longlora::emulator
