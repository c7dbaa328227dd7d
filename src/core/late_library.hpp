#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace longlora {

// A shared library of CUDA's that is opened when it is first used, not when the program starts. It is
// looked for by each file name in turn: where the system's loader looks, then in CUDA's own folders,
// then in those that LONGLORA_CUDA_LIBRARIES lists (colons between them). Never closed.
class LateLibrary {
public:
    // `name` is what messages call it, `setting` the option that does without it.
    LateLibrary(std::string name, std::vector<std::string> files,
                std::string setting = "parallel.device to cpu")
        : name_(std::move(name)), files_(std::move(files)), setting_(std::move(setting)) {}

    bool is_there();

    // The address of a function. Error (exit code 1), with the remedy, if there is no such library
    // or no such function in it. Threads may call it at the same time.
    void* address_of(const char* function);

private:
    std::string open();  // the faults of files that are there and do not load

    std::string name_;
    std::vector<std::string> files_;
    std::string setting_;
    std::mutex mutex_;
    void* handle_ = nullptr;
};

// A function of a late library, called as if it were the function itself.
template <class Signature, LateLibrary& library()>
class LateFunction;

template <class Result, class... Parameters, LateLibrary& library()>
class LateFunction<Result(Parameters...), library> {
public:
    constexpr explicit LateFunction(const char* name) : name_(name) {}

    Result operator()(Parameters... arguments) const {
        void* address = address_.load(std::memory_order_acquire);
        if (address == nullptr) {
            address = library().address_of(name_);
            address_.store(address, std::memory_order_release);
        }
        return reinterpret_cast<Result (*)(Parameters...)>(address)(arguments...);
    }

private:
    const char* name_;
    mutable std::atomic<void*> address_ = nullptr;
};

}  // namespace longlora
