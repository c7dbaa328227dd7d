#include "plan/host_memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>

namespace longlora {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// Version 1 has a hierarchy for memory, version 2 one for everything.
struct Files {
    std::string root;
    const char* limit;
    const char* used;
    const char* cached;  // a line of memory.stat
};
Files version_2(const std::string& mount) {
    return {mount, "memory.max", "memory.current", "inactive_file"};
}
Files version_1(const std::string& mount) {
    return {mount + "/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
            "total_inactive_file"};
}

double number_in(const std::string& path, double otherwise) {
    std::ifstream file(path);
    double value = 0;
    file >> value;  // "max" is no number
    return file ? value : otherwise;
}

// Of a file of lines "key value".
double value_of(const std::string& path, const std::string& key) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with(key + " ")) {
            return std::strtod(line.c_str() + key.size(), nullptr);
        }
    }
    return 0;
}

double room_in(const Files& files, const std::string& folder) {
    const double limit = number_in(folder + "/" + files.limit, infinity);
    const double cached = value_of(folder + "/memory.stat", files.cached);
    const double used = std::max(number_in(folder + "/" + files.used, 0) - cached, 0.0);
    return std::max(limit - used, 0.0);
}

// From `path` up to the root. In a container the path may be one that only its host sees.
double least_room(const Files& files, std::string path) {
    double least = room_in(files, files.root);
    while (path.size() > 1) {
        least = std::min(least, room_in(files, files.root + path));
        path.resize(path.rfind('/'));
    }
    return least;
}

double system_available() {
    const double kilobytes = value_of("/proc/meminfo", "MemAvailable:");
    const auto pages = static_cast<double>(sysconf(_SC_AVPHYS_PAGES));
    return kilobytes > 0 ? 1024 * kilobytes : pages * static_cast<double>(sysconf(_SC_PAGESIZE));
}

}  // namespace

double room_in_cgroups(const std::string& own_cgroups, const std::string& mount) {
    double least = infinity;
    std::ifstream file(own_cgroups);
    for (std::string line; std::getline(file, line);) {  // number:controllers:path
        const auto first = line.find(':');
        const auto second = line.find(':', first + 1);
        if (second == std::string::npos) {
            continue;
        }
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        const std::string path = line.substr(second + 1);
        if (controllers == ",,") {
            least = std::min(least, least_room(version_2(mount), path));
        } else if (controllers.find(",memory,") != std::string::npos) {
            least = std::min(least, least_room(version_1(mount), path));
        }
    }
    return least;
}

double available_host_memory() {
    return std::min(system_available(), room_in_cgroups("/proc/self/cgroup", "/sys/fs/cgroup"));
}

}  // namespace longlora
