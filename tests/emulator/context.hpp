#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace longlora::emulator {

// A stack and the place where the code on it goes on. Threads of a kernel switch among such places
// at each barrier, some 10^7 times in a test: glibc's swapcontext would ask the kernel of the
// operating system each time, so on x86-64 the switch is a dozen instructions of our own.
class Context {
public:
    Context() = default;  // the stack of the caller: a place to come back to
    // A new stack; the first switch to it calls `entry`, which never returns. Contexts that differ
    // in `number` use different lines of the caches.
    Context(void (*entry)(), std::size_t number);
    ~Context();
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;

    // Leaves this context, which must be the running one; returns when another switches back.
    void switch_to(Context& next);
    // Forgets what was under way on the stack: the next switch calls `entry` again.
    void restart();

private:
    [[noreturn]] static void start();
    static void arrive(void* fake_stack);

    void (*entry_)() = nullptr;
    std::byte* memory_ = nullptr;  // with the guard page; none for the caller's own stack
    std::size_t top_ = 0;          // bytes from memory_
    const void* bottom_ = nullptr;
    std::size_t size_ = 0;
#if defined(__x86_64__)
    void* stack_pointer_ = nullptr;
#else
    ucontext_t place_{};
#endif
};

}  // namespace longlora::emulator
