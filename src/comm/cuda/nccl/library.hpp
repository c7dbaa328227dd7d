#pragma once

#include <nccl.h>

#include "core/late_library.hpp"

// NCCL is opened at its first use, so that the program starts on machines without it. Within namespace
// longlora the names below stand for the library's functions of the same names: one that is missing
// here fails to link. tests/emulator has a file in the place of this one.
namespace longlora {

inline LateLibrary& nccl_library() {
    static LateLibrary library("NCCL", {"libnccl.so.2"}, "comm.transport to mpi");
    return library;
}
inline bool has_nccl_library() { return nccl_library().is_there(); }

template <class Signature>
using NcclFunction = LateFunction<Signature, nccl_library>;

inline NcclFunction<decltype(::ncclGetVersion)> ncclGetVersion("ncclGetVersion");
inline NcclFunction<decltype(::ncclGetErrorString)> ncclGetErrorString("ncclGetErrorString");
inline NcclFunction<decltype(::ncclGetLastError)> ncclGetLastError("ncclGetLastError");
inline NcclFunction<decltype(::ncclGetUniqueId)> ncclGetUniqueId("ncclGetUniqueId");
inline NcclFunction<decltype(::ncclCommInitRankConfig)> ncclCommInitRankConfig(
    "ncclCommInitRankConfig");
inline NcclFunction<decltype(::ncclCommDestroy)> ncclCommDestroy("ncclCommDestroy");
inline NcclFunction<decltype(::ncclCommAbort)> ncclCommAbort("ncclCommAbort");
inline NcclFunction<decltype(::ncclCommGetAsyncError)> ncclCommGetAsyncError(
    "ncclCommGetAsyncError");
inline NcclFunction<decltype(::ncclGroupStart)> ncclGroupStart("ncclGroupStart");
inline NcclFunction<decltype(::ncclGroupEnd)> ncclGroupEnd("ncclGroupEnd");
inline NcclFunction<decltype(::ncclSend)> ncclSend("ncclSend");
inline NcclFunction<decltype(::ncclRecv)> ncclRecv("ncclRecv");
inline NcclFunction<decltype(::ncclReduce)> ncclReduce("ncclReduce");
inline NcclFunction<decltype(::ncclBroadcast)> ncclBroadcast("ncclBroadcast");

}  // namespace longlora
