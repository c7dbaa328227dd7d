#pragma once

#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "comm/communicator.hpp"
#include "core/error.hpp"

namespace longlora {

// What went wrong on this rank; code done: nothing.
struct Problem {
    std::string message;
    ExitCode code = ExitCode::done;
};

// Collective. Returns when no rank of `comm` has a problem; else every rank throws the same Error,
// seen by all: the message that all share, or that of the lowest such rank, with its name.
void agree_on(const Communicator<Cpu>& comm, const Problem& mine);
void agree_on(const Problem& mine);  // all ranks of the world

// Collective. Runs `work` on every rank of `comm` and returns what it returned here. When it throws
// anywhere, every rank throws: a broken file is told once and nobody hangs. `work` must not
// communicate. The one place besides main that catches: exceptions do not travel between ranks.
template <class Work>
auto agree(const Communicator<Cpu>& comm, Work&& work) {
    using Result = std::invoke_result_t<Work>;
    constexpr bool is_void = std::is_void_v<Result>;
    std::optional<std::conditional_t<is_void, bool, Result>> result;
    Problem problem;
    try {
        if constexpr (is_void) {
            work();
        } else {
            result.emplace(work());
        }
    } catch (const Error& error) {
        problem = {error.what(), error.code()};
    } catch (const std::exception& error) {
        problem = {error.what(), ExitCode::failure};
    }
    agree_on(comm, problem);
    if constexpr (!is_void) {
        return std::move(*result);
    }
}

template <class Work>
auto agree(Work&& work) {
    return agree(Communicator<Cpu>::world(), std::forward<Work>(work));
}

}  // namespace longlora
