#!/usr/bin/env bash
# Makes the base model of the default run again:  make_base.sh [DIRECTORY] [options of longlora_hpc]
# (DIRECTORY: config/demonstration; LONGLORA_PROGRAM: build/longlora_hpc). An interrupted run goes on where it was.
# Another machine's rounding ends at other weights of the same quality.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
source scripts/environment.sh

directory=config/demonstration
if (($#)) && [[ $1 != -* ]]; then directory=$1; shift; fi
program=${LONGLORA_PROGRAM:-build/longlora_hpc}
python=python3
$python -c 'import h5py, numpy' 2>/dev/null || python=/usr/bin/python3    # Debian's modules belong to Debian's python

mpirun -np 2 "$program" train --config config/base.ini --run.directory runs/base --parallel.sequence 1 "$@"
checkpoints=(runs/base/checkpoints/step-*.h5)
$python scripts/checkpoint_to_safetensors.py "${checkpoints[-1]}" "$directory"
ls -l "$directory"
