#include "commands/threads.hpp"

#include <sched.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include "comm/environment.hpp"

namespace longlora {
namespace {

std::set<int> own_cores() {
    std::set<int> cores;
    cpu_set_t mask;
    CPU_ZERO(&mask);
    if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
        for (int core = 0; core < CPU_SETSIZE; ++core) {
            if (CPU_ISSET(static_cast<std::size_t>(core), &mask)) {
                cores.insert(core);
            }
        }
    }
    return cores;
}

struct Node {
    std::vector<int> ranks;
    std::set<int> cores;
};

// Every rank says where it is: "host core core ...".
std::map<std::string, Node> nodes(const Communicator<Cpu>& world) {
    std::string mine = host_name();
    for (const int core : own_cores()) {
        mine += " " + std::to_string(core);
    }
    std::map<std::string, Node> result;
    int rank = 0;
    for (const std::string& text : world.gather_texts(mine)) {
        std::istringstream words(text);
        std::string host;
        words >> host;
        Node& node = result[host];
        node.ranks.push_back(rank++);
        for (int core = 0; words >> core;) {
            node.cores.insert(core);
        }
    }
    return result;
}

template <class Numbers>
std::string ranges(const Numbers& numbers) {
    std::string text;
    for (auto place = numbers.begin(); place != numbers.end();) {
        auto last = place;
        auto next = std::next(place);
        while (next != numbers.end() && *next == *last + 1) {
            last = next++;
        }
        text += (text.empty() ? "" : ",") + std::to_string(*place) +
                (last == place ? "" : "-" + std::to_string(*last));
        place = next;
    }
    return text;
}

}  // namespace

int threads_per_rank(const Communicator<Cpu>& world) {
    const Node node = nodes(world)[host_name()];
    return std::max(
        1, static_cast<int>(node.cores.size()) / std::max(1, static_cast<int>(node.ranks.size())));
}

std::string placement(const Communicator<Cpu>& world) {
    std::string text;
    for (const auto& [host, node] : nodes(world)) {
        text += (text.empty() ? "" : "\n") + host + ": ranks " + ranges(node.ranks) + ", cores " +
                ranges(node.cores);
    }
    return text;
}

}  // namespace longlora
