#!/usr/bin/env bash
# Stops what up.sh started in DIR, and the jobs:  down.sh DIR
set -uo pipefail
dir=$1
if [[ -v SLURM_CONF ]]; then exec env -u SLURM_CONF "$0" "$@"; fi    # it would count itself among what it stops

# The processes of this Slurm are those that were started with its SLURM_CONF, jobs and step daemons included
ours() { grep -lzsxF "SLURM_CONF=$dir/slurm.conf" /proc/[0-9]*/environ | cut -d/ -f3 ; }

# Jobs first, while someone is there to end them
SLURM_CONF=$dir/slurm.conf timeout 10 scancel --user=root 2>/dev/null
for ((i = 0; i < 50; i++)); do
    [[ -n $(SLURM_CONF=$dir/slurm.conf timeout 5 squeue -h 2>/dev/null) ]] || break
    sleep 0.1
done
for signal in TERM KILL; do
    ours | xargs -r kill -"$signal" 2>/dev/null
    for ((i = 0; i < 50; i++)); do
        [[ -n $(ours) ]] || exit 0
        sleep 0.1
    done
done
echo "down.sh: still there: $(ours | tr '\n' ' ')" >&2
exit 1
