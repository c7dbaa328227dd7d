#!/usr/bin/env bash
# The job of jobs/ under a real Slurm:  slurm_test.sh PROGRAM [srun|mpirun]
# USR1 to the batch shell -> checkpoint, exit 75 -> back into the queue -> resumed -> done, no step lost or repeated.
set -euo pipefail
program=$(realpath "$1") launcher=${2:-srun}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
lab=$root/tests/app/slurm
steps=400    # a few seconds, so that the signal comes in between

export PATH=$PATH:/usr/sbin:/sbin
for tool in sbatch slurmctld slurmd munged mpirun; do
    command -v $tool >/dev/null || { echo "skipped: no $tool (scripts/install.sh test)"; exit 77; }
done
[[ $(id -u) == 0 ]] || { echo "skipped: the test's own slurmd needs root"; exit 77; }
python=python3
$python -c 'import h5py, numpy' 2>/dev/null || python=/usr/bin/python3    # Debian's modules belong to Debian's python

dir=$(mktemp -d)
failed() {
    echo "slurm_test: $1" >&2
    tail -n 40 "$dir/job.out" >&2 || true
    exit 1
}
clean_up() {
    "$lab/down.sh" "$dir/slurm" || true
    rm -rf "$dir"
}
trap clean_up EXIT
# SLURM_CONF only where it is needed: down.sh ends the processes that were started with it
slurm() { SLURM_CONF=$dir/slurm/slurm.conf timeout 20 "$@"; }

mkdir "$dir/slurm"
"$lab/up.sh" "$dir/slurm"

$python -c "
import numpy
numpy.save('$dir/tokens.npy', numpy.random.default_rng(1).integers(0, 64, 64 * 257, dtype=numpy.int32))"
cat >"$dir/tiny.ini" <<INI
[model]
width = 32
layers = 2
heads = 4
kv_heads = 4
mlp_width = 64
vocabulary = 64
[sequence]
length = 256
[attention]
group = 128
[train]
steps = $steps
batch = 4
checkpoint_every = 0
INI

# The job as it is shipped; what differs is given in its own ways
export PROGRAM=$program CONFIG=$dir/tiny.ini DATA=$dir/tokens.npy RUN_DIRECTORY=$dir/run LONGLORA_LAUNCHER=$launcher
job=$(slurm sbatch --parsable -D "$root" -o "$dir/job.out" -N 2 --ntasks-per-node=2 -c 1 -t 10 "$root/jobs/llama2_7b_32k.slurm")

$python "$lab/steps.py" wait "$dir/run/log.h5" 20 80 || failed "the run did not get going"
slurm scancel -b -s USR1 "$job"

for ((i = 0; i < 600; i++)); do    # two minutes: 4 ranks on a busy machine
    state=$(slurm scontrol show job "$job" -o)
    case $state in
        *JobState=COMPLETED*) break ;;
        *JobState=FAILED* | *JobState=CANCELLED* | *JobState=TIMEOUT*) failed "$state" ;;
    esac
    sleep 0.2
done
[[ $state == *JobState=COMPLETED* ]] || failed "not completed: $state"
[[ $state == *Restarts=1* ]] || failed "not restarted once: $state"
[[ $(grep -oE '^exit [0-9]+' "$dir/job.out" | paste -sd,) == "exit 75,exit 0" ]] || failed "not exit 75, then exit 0"
[[ -s $(printf '%s/run/checkpoints/step-%08d.h5' "$dir" $steps) ]] || failed "no checkpoint of step $steps: $(ls "$dir/run/checkpoints")"
$python "$lab/steps.py" check "$dir/run/log.h5" $steps || failed "the log is not whole"
echo "slurm_test: stopped, requeued, resumed and done by $launcher in $SECONDS s"
