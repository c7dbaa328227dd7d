#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "core/arena.hpp"
#include "core/cuda_check.hpp"
#include "core/cuda_device.hpp"
#include "core/transfer.hpp"
#include "kernels/random_normal.hpp"

// What the benchmarks of the CUDA device share: seconds by events, random arrays, lines of key=value.
namespace longlora::bench {

class Event {
public:
    Event() { cuda_check(cudaEventCreate(&event_), "create an event"); }
    ~Event() { cudaEventDestroy(event_); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    void record(const CudaStream& stream) const {
        cuda_check(cudaEventRecord(event_, stream.handle()), "record an event");
    }
    // Until what was recorded here has ended.
    double seconds_since(const Event& start) const {
        cuda_check(cudaEventSynchronize(event_), "wait for an event");
        float milliseconds = 0;
        cuda_check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "read an event");
        return 1e-3 * static_cast<double>(milliseconds);
    }

private:
    cudaEvent_t event_ = nullptr;
};

// Of one call on the GPU.
struct Timing {
    double median = 0;
    double best = 0;
    int runs = 0;
};

using Work = std::function<void()>;

// Warm calls for a fifth of `budget` seconds, at most 20, then the median of at most 100 calls within it,
// at least 3. Operands should exceed the L2 cache a few times over: the next call then finds none of
// them there.
inline Timing measure(const CudaStream& stream, double budget, const Work& work) {
    work();
    stream.synchronize();
    const auto timed = [&](int calls) {
        std::vector<Event> events(2 * static_cast<std::size_t>(calls));
        for (std::size_t i = 0; i < events.size(); i += 2) {
            events[i].record(stream);
            work();
            events[i + 1].record(stream);
        }
        std::vector<double> seconds;
        for (std::size_t i = 0; i < events.size(); i += 2) {
            seconds.push_back(events[i + 1].seconds_since(events[i]));
        }
        return seconds;
    };
    const double once = std::max(timed(1).front(), 1e-6);
    timed(std::clamp(static_cast<int>(0.2 * budget / once), 1, 20));
    const int runs = std::clamp(static_cast<int>(0.8 * budget / once), 3, 100);
    std::vector<double> seconds = timed(runs);
    std::sort(seconds.begin(), seconds.end());
    return {seconds[seconds.size() / 2], seconds.front(), runs};
}

// Standard normal: zeros would run faster than what is trained with.
template <class T>
Buffer<Cuda, T> random_buffer(const Stream<Cuda>& stream, Index size, double deviation = 1) {
    static std::uint64_t key = 1;
    Buffer<Cuda, T> buffer(size);
    random_normal(stream, RandomNormal<Cuda, T>{++key, deviation, buffer.view()});
    return buffer;
}

// Owns what it views.
template <class T>
struct Matrix {
    Matrix(const Stream<Cuda>& stream, Index rows, Index columns, double deviation = 1)
        : buffer(random_buffer<T>(stream, rows * columns, deviation)),
          view(buffer.view().data(), rows, columns) {}

    Buffer<Cuda, T> buffer;
    View<Cuda, T, 2> view;
};

// name=value words of the command line over the values that are built in; other names are refused.
class Settings {
public:
    Settings(std::map<std::string, std::string> values, int count, char** words)
        : values_(std::move(values)) {
        for (int i = 1; i < count; ++i) {
            const std::string word = words[i];
            const auto equals = word.find('=');
            const std::string name = word.substr(0, equals);
            require(equals != std::string::npos && values_.count(name) == 1,
                    word + " is none of the options" + known() + ", each as name=value");
            values_[name] = word.substr(equals + 1);
        }
    }
    const std::string& text(const std::string& name) const { return values_.at(name); }
    double number(const std::string& name) const { return std::stod(text(name)); }
    Index index(const std::string& name) const { return std::stoll(text(name)); }

private:
    std::string known() const {
        std::string all;
        for (const auto& [name, value] : values_) {
            all += " " + name;
        }
        return all;
    }

    std::map<std::string, std::string> values_;
};

// A line for reading by people and by gpu_check.py.
inline void print_line(const std::string& name, const std::map<std::string, double>& values) {
    std::cout << "name=" << name;
    for (const auto& [key, value] : values) {
        std::cout << ' ' << key << '=' << value;
    }
    std::cout << std::endl;
}

// 77: there is no GPU. Errors are told as the program tells them.
inline int run(const std::function<void(const Stream<Cuda>&)>& body) {
    if (cuda_device_count() == 0) {
        std::cout << "no GPU\n";
        return 77;
    }
    try {
        std::cout.precision(9);
        std::cout << "device=" << use_cuda_device(0) << '\n';
        body(Stream<Cuda>());
        return 0;
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}

}  // namespace longlora::bench
