#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

#include "emulator/assumptions/assumption.hpp"
#include "emulator/assumptions/support.cuh"

// Says of each assumption whether it holds. The checks run in a process of their own, which starts again
// behind a check that hangs or leaves the GPU unusable.
//   [first [last]]: numbers of checks

namespace {

using namespace longlora;

constexpr int skipped = 77;   // as ctest knows it
constexpr int gpu_lost = 75;  // the next check needs a process of its own
constexpr unsigned most_seconds = 20;

struct Progress {
    int current;
    int broken;
    int held;
};

void say(const char* verdict, int number, const std::string& text) {
    std::printf("%-6s %2d  %s\n", verdict, number, text.c_str());
    std::fflush(stdout);
}

std::vector<Assumption> all_assumptions() {
    std::vector<Assumption> all = assumptions_of_copies();
    for (const auto& more : {assumptions_of_products(), assumptions_of_chains()}) {
        all.insert(all.end(), more.begin(), more.end());
    }
    return all;
}

std::string broken(const Assumption& assumption) {
    try {
        std::string difference;
        in_any_order([&] {
            if (difference.empty()) {
                difference = assumption.broken();
            }
        });
        return difference;
    } catch (const std::exception& error) {
        return error.what();
    }
}

bool has_hopper() {
    int count = 0;
    cudaDeviceProp device{};
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0 &&
           cudaGetDeviceProperties(&device, 0) == cudaSuccess && device.major == 9;
}

// In the child: from progress.current on, until the end or until the GPU is lost.
int check_all(const std::vector<Assumption>& all, int last, Progress& progress) {
#if LONGLORA_CUDA_EMULATED
    emulator::set_capability(9, 0);
#endif
    if (!has_hopper()) {
        return skipped;
    }
    for (; progress.current <= last; ++progress.current) {
        const Assumption& assumption = all[static_cast<std::size_t>(progress.current)];
        alarm(most_seconds);
        const std::string difference = broken(assumption);
        if (difference.empty()) {
            ++progress.held;
            say("holds", progress.current, assumption.text);
            continue;
        }
        ++progress.broken;
        say("BROKEN", progress.current, assumption.text + "\n            " + difference);
        if (cudaDeviceSynchronize() != cudaSuccess) {
            ++progress.current;
            return gpu_lost;
        }
        cudaGetLastError();
    }
    return 0;
}

// False where there is no GPU for it.
bool run_child(const std::vector<Assumption>& all, int last, Progress& progress) {
    const pid_t child = fork();
    if (child == 0) {
        std::_Exit(check_all(all, last, progress));
    }
    int status = 0;
    waitpid(child, &status, 0);
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code != 0 && code != skipped && code != gpu_lost) {
        const bool hangs = WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM;
        ++progress.broken;
        say("BROKEN", progress.current,
            all[static_cast<std::size_t>(progress.current)].text +
                (hangs ? "\n            it hangs" : "\n            it ends the process"));
        ++progress.current;
    }
    return code != skipped;
}

}  // namespace

int main(int count, char** arguments) {
    const auto all = all_assumptions();
    auto* const progress = static_cast<Progress*>(
        mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    progress->current = count > 1 ? std::atoi(arguments[1]) : 0;
    const int last = count > 2 ? std::atoi(arguments[2]) : static_cast<int>(all.size()) - 1;
    while (progress->current <= last) {
        if (!run_child(all, last, *progress)) {
            std::puts("there is no GPU of compute capability 9.0 here");
            return skipped;
        }
    }
    std::printf("%d assumptions hold, %d are broken\n", progress->held, progress->broken);
    return progress->broken == 0 ? 0 : 1;
}
