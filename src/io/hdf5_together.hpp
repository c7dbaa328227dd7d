#pragma once

#include <exception>
#include <optional>

#include "core/error.hpp"

// How ranks that share a file fail together.
namespace longlora {

// What the body that the ranks run does: work of its own, or HDF5's collectives. In a collective
// that a rank has left with an error the others may be stuck for good; so it waits for them two
// seconds only, then throws alone, which ends the program.
enum class SharedWork { independent, collective };

// If `mine` holds an error on any rank, every rank throws that of the lowest such rank.
void throw_together(const std::optional<Error>& mine, SharedWork kind);

// Runs body() on every rank of the world: all go on, or all throw the same Error.
template <class Function>
void together(SharedWork kind, const Function& body) {
    std::optional<Error> mine;
    try {
        body();
    } catch (const Error& error) {
        mine = error;
    } catch (const std::exception& error) {
        mine = Error(error.what(), ExitCode::failure);
    }
    throw_together(mine, kind);
}

}  // namespace longlora
