#!/usr/bin/env bash
# Checks and measures the program on a GPU and prints one table:
#   gpu_check.sh --bundle DIR --out DIR [--quick] [--seconds N] [--set PART.KEY=VALUE] [PART...]
#   PART: tests sanitizer rates attention small step streaming ranks; none: all, 25 minutes at most
# Needs a bundle (bundle.sh --with-tests DIR), tests/bench, a GPU and python3 with numpy and h5py; for the comparisons torch,
# transformers and peft: rows that miss one say so. DIR of --out gets table.md, rows.jsonl and log.txt.
#   --seconds N   that each part may take (470): what does not fit is told as not run
#   --quick       the same shapes, fewer of them: a minute or two a part
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ ${1-} == -h || ${1-} == --help || $# == 0 ]]; then
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi
exec "${LONGLORA_PYTHON-python3}" "$here/tests/bench/gpu_check.py" "$@"
