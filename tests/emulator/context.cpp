#include "context.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

// The address sanitizer must know which stack is in use.
#if defined(__SANITIZE_ADDRESS__)
#define LONGLORA_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LONGLORA_ADDRESS_SANITIZER 1
#endif
#endif
#if LONGLORA_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Keeps what a function must preserve (registers, rounding of both kinds of arithmetic) on the old
// stack, its address in *save, and takes the same from the new one. The jump instead of a return
// is predicted.
extern "C" void longlora_switch_stack(void** save, void* stack_pointer);
asm(R"(
.pushsection .text
.p2align 4
.type longlora_switch_stack, @function
longlora_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    stmxcsr (%rsp)
    fnstcw 4(%rsp)
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    ldmxcsr (%rsp)
    fldcw 4(%rsp)
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
.size longlora_switch_stack, . - longlora_switch_stack
.popsection
)");
#endif

namespace longlora::emulator {

namespace {

#if LONGLORA_ADDRESS_SANITIZER
constexpr std::size_t stack_bytes = std::size_t{512} << 10U;  // frames with red zones are larger
#else
constexpr std::size_t stack_bytes = std::size_t{128} << 10U;
#endif

// Between leaving one stack and being on the other; launches do not run side by side.
Context* departed = nullptr;
Context* arriving = nullptr;

std::size_t page_bytes() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

Context::Context(void (*entry)(), std::size_t number) : entry_(entry) {
    size_ = stack_bytes + page_bytes();
    void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        throw std::bad_alloc();
    }
    mprotect(memory, page_bytes(), PROT_NONE);  // an overflow is a fault, not another's stack
    memory_ = static_cast<std::byte*>(memory);
    bottom_ = memory_ + page_bytes();
    size_ -= page_bytes();
    constexpr std::size_t lines = 61;
    top_ = page_bytes() + size_ - 256 - 192 * (number % lines);
    restart();
}

Context::~Context() {
    if (memory_ != nullptr) {
        munmap(memory_, size_ + page_bytes());
    }
}

void Context::restart() {
#if LONGLORA_ADDRESS_SANITIZER
    ASAN_UNPOISON_MEMORY_REGION(bottom_, size_);
#endif
#if defined(__x86_64__)
    // What the switch takes from a stack: control words, six registers, where to go; above it the
    // address that `start` would return to, none.
    std::uint64_t frame[9] = {};
    std::uint32_t vector_control = 0;
    std::uint16_t scalar_control = 0;
    asm volatile("stmxcsr %0" : "=m"(vector_control));
    asm volatile("fnstcw %0" : "=m"(scalar_control));
    frame[0] = vector_control | std::uint64_t{scalar_control} << 32U;
    frame[7] = reinterpret_cast<std::uint64_t>(&Context::start);
    std::byte* const at = memory_ + top_ / 16 * 16 - sizeof frame;  // aligned as behind a call
    std::memcpy(at, frame, sizeof frame);
    stack_pointer_ = at;
#else
    getcontext(&place_);
    place_.uc_stack.ss_sp = memory_ + page_bytes();
    place_.uc_stack.ss_size = top_ - page_bytes();
    place_.uc_link = nullptr;
    makecontext(&place_, &Context::start, 0);
#endif
}

void Context::switch_to(Context& next) {
    departed = this;
    arriving = &next;
    void* fake_stack = nullptr;
#if LONGLORA_ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(&fake_stack, next.bottom_, next.size_);
#endif
#if defined(__x86_64__)
    longlora_switch_stack(&stack_pointer_, next.stack_pointer_);
#else
    swapcontext(&place_, &next.place_);
#endif
    arrive(fake_stack);
}

void Context::start() {
    arrive(nullptr);
    arriving->entry_();
    std::abort();
}

// On the new stack. Where the stack of the launching thread lies is learnt here.
void Context::arrive([[maybe_unused]] void* fake_stack) {
#if LONGLORA_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(fake_stack, &departed->bottom_, &departed->size_);
#endif
}

}  // namespace longlora::emulator
