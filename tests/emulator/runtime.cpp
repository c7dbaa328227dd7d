#include "runtime.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "cuda_runtime.h"
#include "late_copies.hpp"

struct CUstream_st {
    int priority;
    std::shared_ptr<longlora::emulator::LateCopies> copies =
        longlora::emulator::LateCopies::of_new_stream();
};

struct CUevent_st {
    using Clock = std::chrono::steady_clock;
    bool has_time;
    Clock::time_point recorded{};
    // What it is behind.
    std::shared_ptr<longlora::emulator::LateCopies> copies{};
    std::size_t count = 0;

    void finish_copies() const {
        if (copies != nullptr) {
            copies->happen(count);
        }
    }
};

namespace longlora::emulator {

namespace {

constexpr int driver_version = 13000;
constexpr int greatest_priority = -5;
constexpr std::size_t granted_shared_bytes = std::size_t{48} << 10U;
constexpr unsigned most_threads = 1024;

Capability capability_at_start() {
    const char* const text = std::getenv("LONGLORA_EMULATOR_CAPABILITY");
    return text != nullptr && std::strcmp(text, "9.0") == 0 ? Capability{9, 0} : Capability{8, 0};
}
Capability& current_capability() {
    static Capability current = capability_at_start();
    return current;
}

// What a block may have at most; a multiprocessor has 1 KiB more.
std::size_t most_shared_bytes() { return std::size_t{capability().major < 9 ? 163U : 227U} << 10U; }

thread_local cudaError_t last_error = cudaSuccess;

struct ErrorText {
    cudaError_t error;
    const char* name;
    const char* text;
};
constexpr ErrorText error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const ErrorText& text_of(cudaError_t error) {
    for (const ErrorText& text : error_texts) {
        if (text.error == error) {
            return text;
        }
    }
    return error_texts[std::size(error_texts) - 1];
}

// An A100, or an H100, but for its few multiprocessors: who sizes a grid by them has each thread do several turns
// even in a small test.
cudaDeviceProp device_properties() {
    cudaDeviceProp p{};
    std::strcpy(p.name, "emulator");
    p.totalGlobalMem = device_bytes;
    p.sharedMemPerBlock = granted_shared_bytes;
    p.sharedMemPerBlockOptin = most_shared_bytes();
    p.sharedMemPerMultiprocessor = most_shared_bytes() + (1U << 10U);
    p.regsPerBlock = 65536;
    p.regsPerMultiprocessor = 65536;
    p.warpSize = warp_lanes;
    p.maxThreadsPerBlock = most_threads;
    p.maxThreadsPerMultiProcessor = 2048;
    p.maxThreadsDim[0] = p.maxThreadsDim[1] = most_threads;
    p.maxThreadsDim[2] = 64;
    p.maxGridSize[0] = 0x7FFFFFFF;
    p.maxGridSize[1] = p.maxGridSize[2] = 65535;
    p.totalConstMem = 65536;
    p.major = capability().major;
    p.minor = capability().minor;
    p.multiProcessorCount = 4;
    p.concurrentKernels = 1;
    p.asyncEngineCount = 3;
    p.unifiedAddressing = 1;
    p.memoryBusWidth = 5120;
    p.l2CacheSize = 40 << 20;
    return p;
}

// What cudaFuncSetAttribute has granted beyond what every kernel has.
class SharedMemoryGrants {
public:
    void set(const void* kernel, std::size_t bytes) {
        const std::lock_guard lock(mutex_);
        granted_[kernel] = bytes;
    }
    std::size_t of(const void* kernel) {
        const std::lock_guard lock(mutex_);
        const auto grant = granted_.find(kernel);
        return grant == granted_.end() || grant->second < granted_shared_bytes
                   ? granted_shared_bytes
                   : grant->second;
    }

private:
    std::mutex mutex_;
    std::map<const void*, std::size_t> granted_;
};
SharedMemoryGrants grants;

bool fits(const dim3& size, const int (&most)[3]) {
    const auto is_in = [](unsigned n, int limit) {
        return n >= 1 && n <= static_cast<unsigned>(limit);
    };
    return is_in(size.x, most[0]) && is_in(size.y, most[1]) && is_in(size.z, most[2]);
}

}  // namespace

Capability capability() { return current_capability(); }

void set_capability(int major, int minor) {
    if ((major != 8 && major != 9) || minor != 0) {
        throw Failure("emulator: there is no device of compute capability " +
                      std::to_string(major) + "." + std::to_string(minor));
    }
    current_capability() = {major, minor};
}

cudaError_t report(cudaError_t status) {
    if (status != cudaSuccess) {
        last_error = status;
    }
    return status;
}

cudaError_t check_launch(const void* kernel, const cudaLaunchConfig_t& config) {
    const cudaDeviceProp device = device_properties();
    const dim3& block = config.blockDim;
    if (!fits(config.gridDim, device.maxGridSize) || !fits(block, device.maxThreadsDim) ||
        block.x * block.y * block.z > most_threads) {
        return report(cudaErrorInvalidConfiguration);
    }
    finish_copies(config.stream);
    return report(config.dynamicSmemBytes > grants.of(kernel) ? cudaErrorInvalidValue
                                                              : cudaSuccess);
}

void finish_copies(cudaStream_t stream) {
    if (stream != nullptr) {
        stream->copies->happen();
    }
}

void add_copy(cudaStream_t stream, void* to, const void* from, std::size_t bytes) {
    stream->copies->add(to, from, bytes);
}

}  // namespace longlora::emulator

namespace emulator = longlora::emulator;
using emulator::report;

const char* cudaGetErrorName(cudaError_t error) { return emulator::text_of(error).name; }
const char* cudaGetErrorString(cudaError_t error) { return emulator::text_of(error).text; }
cudaError_t cudaPeekAtLastError() { return emulator::last_error; }
cudaError_t cudaGetLastError() { return std::exchange(emulator::last_error, cudaSuccess); }

// ---- devices ----

cudaError_t cudaGetDeviceCount(int* count) {
    const char* const devices = std::getenv("LONGLORA_EMULATOR_DEVICES");
    *count = devices == nullptr ? 1 : std::atoi(devices);
    return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    return report(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    *properties = emulator::device_properties();
    return cudaSetDevice(device);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    const cudaDeviceProp p = emulator::device_properties();
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock:
            *value = p.maxThreadsPerBlock;
            break;
        case cudaDevAttrMaxSharedMemoryPerBlock:
            *value = static_cast<int>(p.sharedMemPerBlock);
            break;
        case cudaDevAttrWarpSize:
            *value = p.warpSize;
            break;
        case cudaDevAttrMultiProcessorCount:
            *value = p.multiProcessorCount;
            break;
        case cudaDevAttrMaxThreadsPerMultiProcessor:
            *value = p.maxThreadsPerMultiProcessor;
            break;
        case cudaDevAttrComputeCapabilityMajor:
            *value = p.major;
            break;
        case cudaDevAttrComputeCapabilityMinor:
            *value = p.minor;
            break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            *value = static_cast<int>(p.sharedMemPerMultiprocessor);
            break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = static_cast<int>(p.sharedMemPerBlockOptin);
            break;
        default:
            return report(cudaErrorInvalidValue);
    }
    return cudaSetDevice(device);
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int device) {
    // As a process has its memory alone, so it may say of its device.
    const bool is_own = std::getenv("LONGLORA_EMULATOR_OWN_DEVICE") != nullptr;
    std::snprintf(id, static_cast<std::size_t>(bytes), "%08x:00:00.0", is_own ? getpid() : 0);
    return cudaSetDevice(device);
}
cudaError_t cudaDeviceSynchronize() {
    emulator::finish_copies();
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
    *version = emulator::driver_version;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

// ---- streams and events ----

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    *least = 0;
    *greatest = emulator::greatest_priority;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
    if (flags > cudaStreamNonBlocking) {
        return report(cudaErrorInvalidValue);
    }
    *stream = new CUstream_st{std::clamp(priority, emulator::greatest_priority, 0)};
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
    *priority = stream == nullptr ? 0 : stream->priority;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    emulator::finish_copies(stream);
    delete stream;
    return report(stream == nullptr ? cudaErrorInvalidResourceHandle : cudaSuccess);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    emulator::finish_copies(stream);
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t /*stream*/, cudaEvent_t event, unsigned /*flags*/) {
    return cudaEventSynchronize(event);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
    emulator::finish_copies(stream);
    function(argument);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    *event = new CUevent_st{(flags & cudaEventDisableTiming) == 0};
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (event == nullptr) {
        return report(cudaErrorInvalidResourceHandle);
    }
    event->copies = stream == nullptr ? nullptr : stream->copies;
    event->count = stream == nullptr ? 0 : stream->copies->count();
    event->recorded = CUevent_st::Clock::now();
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (event == nullptr) {
        return report(cudaErrorInvalidResourceHandle);
    }
    event->finish_copies();
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
    const CUevent_st::Clock::time_point never{};
    if (!start->has_time || !end->has_time || start->recorded == never || end->recorded == never) {
        return report(cudaErrorInvalidResourceHandle);
    }
    *milliseconds =
        std::chrono::duration<float, std::milli>(end->recorded - start->recorded).count();
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return report(event == nullptr ? cudaErrorInvalidResourceHandle : cudaSuccess);
}

// ---- kernels ----

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 || static_cast<std::size_t>(value) > emulator::most_shared_bytes()) {
            return report(cudaErrorInvalidValue);
        }
        emulator::grants.set(kernel, static_cast<std::size_t>(value));
    }
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* /*kernel*/,
                                                          int threads, std::size_t shared_bytes) {
    const cudaDeviceProp p = emulator::device_properties();
    const auto by_memory = p.sharedMemPerMultiprocessor / (shared_bytes + 1024);
    *blocks = std::min(p.maxThreadsPerMultiProcessor / std::max(threads, 1),
                       static_cast<int>(std::min<std::size_t>(by_memory, 32)));
    return cudaSuccess;
}
