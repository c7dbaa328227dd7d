#!/usr/bin/env bash
# A bundle of a build, moved elsewhere and started with an empty environment:  bundle_test.sh BUILD
set -euo pipefail
build=$(realpath "$1")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
for tool in patchelf ompi_info; do
    command -v $tool >/dev/null || { echo "skipped: no $tool (scripts/install.sh bundle)"; exit 77; }
done

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed() { echo "bundle_test: $1" >&2; exit 1; }

"$root/scripts/bundle.sh" --build "$build" "$dir/made"
mkdir "$dir/another place"
mv "$dir/made" "$dir/another place/bundle"
bundle="$dir/another place/bundle"
cd "$dir"

# The loader's own answer: whatever is not of the bundle is glibc's.
for program in "$bundle"/bin/*; do
    outside=$(env -i LD_TRACE_LOADED_OBJECTS=1 "$program" | grep -vE "=> $dir|^[[:space:]]*(linux-vdso|/lib.*/ld-linux)" |
        grep -vE 'lib(c|m|mvec|dl|pthread|rt|resolv|util|anl|nsl)\.so') || true
    [[ -z $outside ]] || failed "$(basename "$program") takes from elsewhere: $outside"
done

# shows WHAT PATTERN COMMAND...: the command, without even PATH and HOME, succeeds and prints a line like PATTERN
shows() {
    local what=$1 pattern=$2
    shift 2
    if ! { env -i "$@" >out 2>&1 && grep -q "$pattern" out; }; then
        cat out
        failed "$what"
    fi
}
shows "started alone" '^longlora_hpc [0-9]' "$bundle/longlora_hpc" --version
shows "dry run" '^memory of a rank' "$bundle/longlora_hpc" --config default --dry-run
shows "3 ranks" '^step 1/1  loss' "$bundle/mpirun" -np 3 "$bundle/longlora_hpc" --config default --train.steps 1 \
    --evaluate.tokens 1024 --parallel.device cpu --run.directory run
ln -s "$bundle/longlora_hpc" linked
shows "found through a link" '^run  ' ./linked report --run.directory run
echo "bundle_test: passed"
