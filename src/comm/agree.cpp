#include "comm/agree.hpp"

#include <algorithm>

#include "comm/environment.hpp"

namespace longlora {

void agree_on(const Communicator<Cpu>& comm, const Problem& mine) {
    const bool has_problem = mine.code != ExitCode::done;
    const int first = comm.min(has_problem ? comm.rank() : comm.size());
    if (first == comm.size()) {
        return;
    }
    auto code = static_cast<std::int32_t>(mine.code);
    comm.broadcast(View<Cpu, std::int32_t, 1>(&code, 1), first);
    const std::string message = comm.broadcast_text(mine.message, first);
    const std::string name = comm.broadcast_text(rank_name(), first);
    const bool is_mine = has_problem && mine.message == message;
    const bool is_shared = comm.min(is_mine ? 1 : 0) == 1;
    throw Error::of_all_ranks((is_shared ? "" : name) + message, static_cast<ExitCode>(code));
}

void agree_on(const Problem& mine) { agree_on(Communicator<Cpu>::world(), mine); }

}  // namespace longlora
