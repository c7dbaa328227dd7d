#!/usr/bin/env bash
# From a clone to a run:  run.sh [arguments of longlora_hpc]      (none: the demonstration; LONGLORA_RANKS: 8)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/environment.sh
source "$here/environment.sh"

"$here/install.sh" build
tests=(-DLONGLORA_TESTS=OFF)    # who only wants to run need not wait for them
if [[ -e $here/../build/CMakeCache.txt ]]; then tests=(); fi
"$here/build.sh" build "${tests[@]}"
exec mpirun -np "${LONGLORA_RANKS:-8}" "$here/../build/longlora_hpc" "$@"
