#!/usr/bin/env bash
# Everything that is judged without running the program:  lint.sh [DIR]      (DIR: the build folder, default build)
# shellcheck disable=SC2317  # the checks are called through step
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
build=${1:-build}
failed=0

# The repository's files, those not added yet too, that match the patterns given.
files() { git ls-files --cached --others --exclude-standard -- "$@" | while read -r f; do [[ -e $f ]] && echo "$f"; done; }
# A tool in the version the format is fixed for, else whatever is there.
tool() { command -v "$1-16" || command -v "$1"; }

# step NAME COMMAND...: quiet when all is well, so that what is printed is to be mended
step() {
    local name=$1 start=$SECONDS status=ok
    shift
    "$@" || { status=FAILED; failed=1; }
    printf '%-12s %6s %4d s\n' "$name" "$status" $((SECONDS - start))
}

check_format() {
    files 'src/*.?pp' 'kernels/*.?pp' 'tests/*.?pp' '*.cu' '*.cuh' | xargs -r "$(tool clang-format)" --dry-run -Werror 2>&1 | grep error:
    ((PIPESTATUS[1] == 0)) || { echo "mend by: clang-format-16 -i FILE..."; return 1; }
}

# .cu is not for clang-tidy: it cannot parse current CUDA headers.
check_tidy() {
    [[ -e $build/compile_commands.json ]] || { echo "no $build/compile_commands.json: scripts/build.sh first"; return 1; }
    # g++'s omp.h has one attribute that clang does not know, and clang's own is not always there
    mkdir -p "$build/lint"
    sed 's/__malloc__ (omp_free),//' "$(g++ -print-file-name=include/omp.h)" >"$build/lint/omp.h"
    # shellcheck disable=SC2016  # the inner shell expands; it keeps the output of each file together
    # what this build has not (the CUDA device, where there is no toolkit) cannot be looked at
    files 'src/*.cpp' 'kernels/*.cpp' | while read -r f; do grep -qF "/$f\"" "$build/compile_commands.json" && echo "$f"; done | xargs -r -P "$(nproc)" -I{} sh -c \
        'found=$("$0" --quiet -p "$1" --extra-arg="-isystem$1/lint" --extra-arg=-Wno-unknown-warning-option "$2" 2>&1) || {
            echo "$found" | grep -v "warnings\? generated"; exit 1; }' \
        "$(tool clang-tidy)" "$(realpath "$build")" {}
}

check_shell() { files '*.sh' '*.slurm' .ci/run | xargs -r shellcheck -x; }

# only WHAT REGEX HOME: REGEX (comments and strings apart) occurs nowhere in src and kernels but in paths like HOME
only() {
    local what=$1 regex=$2 home=$3 found
    found=$(files 'src/*' 'kernels/*' | grep -E '\.(cpp|hpp|cu|cuh)$' | grep -vE "$home" | while read -r f; do
        sed -E 's,"([^"\\]|\\.)*","",g; s,//.*,,' "$f" | grep -nE "$regex" | sed "s,^,$f:,"
    done)
    [[ -z $found ]] || { echo "$what, outside of $home:"; echo "$found"; return 1; }
}

check_homes() {
    local bad=0
    only 'output' '\b(printf|fprintf|puts|fputs|putchar)[[:space:]]*\(|std::(cout|cerr|clog)\b' '^src/core/|^src/main\.cpp' || bad=1
    only 'the end of the process' '\b(_?exit|quick_exit|_Exit|abort|terminate)[[:space:]]*\(' '^src/main\.cpp|^src/comm/' || bad=1
    only 'new or delete' '(^|[^=[:space:]])[[:space:]]*\b(new[[:space:]]+[A-Za-z_:(]|delete[[:space:]]*(\[\])?[[:space:]]*[A-Za-z_*(])' '^src/core/' || bad=1
    only 'MPI_Init or MPI_Finalize' '\bMPI_(Init|Init_thread|Finalize)[[:space:]]*\(' '^src/comm/environment' || bad=1
    return "$bad"
}

# The top level is fixed; a registry is the business of the machine's package clients.
check_tree() {
    local bad=0 extra hosts
    extra=$(files | cut -d/ -f1 | grep -v '^\.' | sort -u |
        grep -vxE 'CMakeLists\.txt|README\.md|src|kernels|jobs|config|scripts|tests')
    [[ -z $extra ]] || { echo "not meant for the top level: $extra"; bad=1; }
    hosts='pypi[.]org|pythonhosted[.]org|(deb|security|snapshot)[.]debian[.]org|(archive|security|ports)[.]ubuntu[.]com'
    hosts+='|registry[.]npmjs[.]org|crates[.]io|proxy[.]golang[.]org|repo[.]maven'
    files | tr '\n' '\0' | xargs -0r grep -nIE "$hosts" && { echo "a registry's host name"; bad=1; }
    return "$bad"
}

step format check_format
step layers scripts/check_layers.py
step homes check_homes
step tree check_tree
step shell check_shell
step clang-tidy check_tidy
exit $failed
