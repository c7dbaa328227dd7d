#include <exception>
#include <string>

#include "comm/agree.hpp"
#include "comm/environment.hpp"
#include "commands/commands.hpp"
#include "core/error.hpp"
#include "core/fault_point.hpp"
#include "core/heap.hpp"
#include "core/terminal.hpp"
#include "options/invocation.hpp"

namespace longlora {
namespace {

int run(int argc, char** argv) {
    const auto invocation = agree([&] { return parse(argc, argv, embedded_default_ini()); });
    if (invocation.wants_help || invocation.wants_version) {
        if (world_rank() == 0) {
            say(invocation.wants_help ? help_text() : "longlora_hpc " LONGLORA_VERSION);
        }
        return static_cast<int>(ExitCode::done);
    }
    return run_command(invocation);
}

// An error of this rank alone: the others may wait for it in a collective, so all are ended.
int fail_alone(const std::string& message, ExitCode code) {
    if (world_size() == 1) {
        complain(message);
        return static_cast<int>(code);
    }
    complain(rank_name() + message);
    abort_all(static_cast<int>(code));
}

}  // namespace
}  // namespace longlora

int main(int argc, char** argv) {
    using namespace longlora;
    keep_freed_memory();
    fault_point("start");
    const Environment environment;
    try {
        return run(argc, argv);
    } catch (const Error& error) {
        if (!error.seen_by_all()) {
            return fail_alone(error.what(), error.code());
        }
        if (world_rank() == 0) {
            complain(error.what());
        }
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        return fail_alone(error.what(), ExitCode::failure);
    }
}
