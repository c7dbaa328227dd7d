#!/usr/bin/env bash
# Configures and builds:  build.sh [DIR] [CMake arguments] [--target TARGET...]      (DIR: build; Release unless told otherwise)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

directory=build
if (($#)) && [[ $1 != -* ]]; then directory=$1; shift; fi

configuring=()
while (($#)) && [[ $1 != --target ]]; do configuring+=("$1"); shift; done

first=()
if [[ ! -e $directory/CMakeCache.txt ]]; then    # a configured folder keeps its generator and its launcher
    if command -v ninja >/dev/null; then first+=(-G Ninja); fi
    if command -v ccache >/dev/null; then first+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
fi
cmake -S . -B "$directory" "${first[@]}" "${configuring[@]}"
cmake --build "$directory" --parallel "$(nproc)" "$@"
