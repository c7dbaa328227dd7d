#include "core/fault_point.hpp"

#if LONGLORA_FAULTS

#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/progress_point.hpp"
#include "core/text.hpp"

namespace longlora {
namespace {

// The launcher's word: a fault may come before MPI is up.
int own_rank() {
    for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"}) {
        if (const char* rank = std::getenv(name)) {
            return std::atoi(rank);
        }
    }
    return 0;
}

std::string environment(const char* name) {
    const char* const value = std::getenv(name);
    return value == nullptr ? "" : value;
}

struct Fault {
    std::string name;
    int hit = 0;
    int signal = SIGKILL;
};

// Nothing of it where the fault is another rank's.
Fault read_fault() {
    const std::vector<std::string> words = split(environment("LONGLORA_FAULT"), ':');
    const bool is_mine = words.size() < 3 || std::stoi(words[2]) == own_rank();
    if (words.size() < 2 || !is_mine) {
        return {};
    }
    return {words[0], std::stoi(words[1]), words.size() > 3 ? SIGSTOP : SIGKILL};
}

class Faults {
public:
    Faults() : fault_(read_fault()), counts_path_(environment("LONGLORA_FAULT_COUNTS")) {}
    ~Faults() {
        if (counts_path_.empty()) {
            return;
        }
        std::ofstream file(counts_path_ + "." + std::to_string(own_rank()));
        for (const auto& [name, count] : counts_) {
            file << name << ' ' << count << '\n';
        }
    }
    Faults(const Faults&) = delete;
    Faults& operator=(const Faults&) = delete;

    bool is_due(const char* name) { return ++counts_[name] == fault_.hit && fault_.name == name; }
    void strike() const { kill(getpid(), fault_.signal); }

private:
    Fault fault_;
    std::string counts_path_;
    std::map<std::string, int> counts_;
};

Faults& faults() {
    static Faults all;
    return all;
}

// How much of a write is done when a process is killed in it: whole pages, as the kernel works.
std::size_t torn_size(std::size_t size, off_t offset) {
    constexpr std::size_t page = 4096;
    const auto begin = static_cast<std::size_t>(offset);
    const std::size_t border = (begin + size / 2) / page * page;
    return border > begin ? border - begin : 0;
}

}  // namespace

void fault_point(const char* name) {
    if (faults().is_due(name)) {
        faults().strike();
    }
}

}  // namespace longlora

// In the place of the C library's for the whole process, HDF5 and MPI-IO included.
extern "C" ssize_t pwrite(int file, const void* data, std::size_t size, off_t offset) {
    using longlora::faults;
    const bool is_saving =
        std::string_view(longlora::progress_point().phase.data()) == "checkpoint";
    if (faults().is_due(is_saving ? "checkpoint_write" : "log_write")) {
        syscall(SYS_pwrite64, file, data, longlora::torn_size(size, offset), offset);
        faults().strike();
    }
    return syscall(SYS_pwrite64, file, data, size, offset);
}

#endif
