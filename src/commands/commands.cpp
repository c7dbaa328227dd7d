#include "commands/commands.hpp"

#include "commands/command_list.hpp"
#include "core/error.hpp"

namespace longlora {

int run_command(const Invocation& invocation) {
    if (invocation.is_dry_run && invocation.command != "train" && invocation.command != "export") {
        throw Error::of_all_ranks(
            invocation.command + " has no --dry-run; give it to train or export",
            ExitCode::bad_input);
    }
    if (invocation.command == "train") {
        return train_command(invocation.options, invocation.is_dry_run);
    }
    if (invocation.command == "evaluate") {
        return evaluate_command(invocation.options);
    }
    if (invocation.command == "export") {
        return export_command(invocation.options, invocation.is_dry_run);
    }
    if (invocation.command == "prepare") {
        return prepare_command(invocation.options);
    }
    if (invocation.command == "report") {
        return report_command(invocation.options);
    }
    throw Error::of_all_ranks("unknown command " + invocation.command, ExitCode::bad_input);
}

}  // namespace longlora
