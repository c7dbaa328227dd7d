#pragma once

#include <source_location>
#include <stdexcept>
#include <string>

namespace longlora {

// What the process tells its launcher (architecture.md, "Commands and files").
enum class ExitCode : int {
    done = 0,
    failure = 1,    // something went wrong while running
    bad_input = 2,  // wrong options, configuration or input file
    stopped = 75,   // stopped on request after a checkpoint: requeue me
};

// The one exception type. `what()` is a sentence for the user: file, cause, remedy.
class Error : public std::runtime_error {
public:
    Error(const std::string& message, ExitCode code,
          std::source_location where = std::source_location::current())
        : std::runtime_error(message), code_(code), where_(where) {}

    // The same for an error that every rank is known to throw at the same place (comm/agree.hpp):
    // all may end in order, and one of them speaks.
    static Error of_all_ranks(const std::string& message, ExitCode code) {
        Error error(message, code);
        error.seen_by_all_ = true;
        return error;
    }

    ExitCode code() const { return code_; }
    bool seen_by_all() const { return seen_by_all_; }
    const std::source_location& where() const { return where_; }

private:
    ExitCode code_;
    bool seen_by_all_ = false;
    std::source_location where_;
};

// For what a user, a file or an option can cause: ends the program with exit code 2.
inline void require(bool holds, const std::string& message,
                    std::source_location where = std::source_location::current()) {
    if (!holds) {
        throw Error(message, ExitCode::bad_input, where);
    }
}

// For what the machine can cause while running (disk full, a lost peer): exit code 1.
inline void ensure(bool holds, const std::string& message,
                   std::source_location where = std::source_location::current()) {
    if (!holds) {
        throw Error(message, ExitCode::failure, where);
    }
}

}  // namespace longlora
