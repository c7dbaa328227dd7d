#!/usr/bin/env bash
# A folder that runs on other machines, with all it needs but glibc, an NVIDIA driver and CUDA's own libraries:
#   bundle.sh [--build BUILD] [--with-tests] [--pack] DIR
#   --build BUILD   the build to take (default: build-bundle, which is made with BLIS, a third of OpenBLAS's size)
#   --with-tests    also the tests and benchmarks for a GPU, as DIR/tests/cuda_*
#   --pack          also DIR.tar.xz
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

build='' with_tests=0 pack=0 target=''
while (($#)); do
    case $1 in
        --build) build=$(realpath "$2"); shift ;;
        --with-tests) with_tests=1 ;;
        --pack) pack=1 ;;
        -*) echo "bundle.sh: unknown option $1" >&2; exit 2 ;;
        *) target=$1 ;;
    esac
    shift
done
[[ -n $target ]] || { sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
if [[ -e $target && ! -e $target/bin/longlora_hpc ]]; then
    echo "bundle.sh: $target is there and is no bundle" >&2
    exit 2
fi

# ---- the build ----

if [[ -z $build ]]; then
    build=$here/build-bundle
    targets=(longlora_hpc) tests=OFF
    if ((with_tests)); then targets+=(device_programs) tests=ON; fi
    "$here/scripts/install.sh" build bundle
    # fault points are for tests of the program itself
    "$here/scripts/build.sh" build-bundle -DBLA_VENDOR=FLAME -DLONGLORA_FAULTS=OFF -DLONGLORA_TESTS=$tests --target "${targets[@]}"
fi
for tool in patchelf ompi_info orterun orted; do
    command -v $tool >/dev/null || { echo "bundle.sh: $tool is not installed (scripts/install.sh bundle)" >&2; exit 1; }
done

# ---- what is copied ----

rm -rf "$target"
mkdir -p "$target"/{bin,lib,scripts}
target=$(cd "$target" && pwd)

# A path below Open MPI's prefix, without that prefix: OPAL_PREFIX moves all of them together.
mpi_path() { ompi_info --parsable --path "$1" | sed -n "s,^path:$1:$mpi_prefix/,,p" | head -n 1; }
mpi_prefix=$(ompi_info --parsable --path prefix | sed -n 's/^path:prefix://p')

copy_programs() {
    cp "$build/longlora_hpc" "$target/bin/"
    cp -L "$(command -v orterun)" "$target/bin/mpirun"
    cp -L "$(command -v orted)" "$target/bin/"
    if ((with_tests)); then
        mkdir "$target/tests"
        find "$build/tests" -maxdepth 1 -type f -executable -name 'cuda_*' -exec cp -t "$target/tests" {} +
    fi
}

# Open MPI's and PMIx's plugins and texts. Left out are fabrics whose libraries are tied to a machine's drivers, other
# launchers, and OpenSHMEM.
copy_mpi() {
    local plugins help pmix
    plugins=$(mpi_path pkglibdir) help=$(mpi_path pkgdatadir)
    mkdir -p "$target/$plugins" "$target/$help" "$target/lib/pmix"
    find "$mpi_prefix/$plugins" -name 'mca_*.so' |
        grep -vE '_(ofi|openib|ucx|psm2?|usnic|portals4|flux.*|jsm|gridengine|simulator|monitoring|oshmem|.*cuda)\.so$' |
        grep -vE '/mca_(spml|scoll|sshmem|memheap|atomic)_' | xargs cp -Lt "$target/$plugins"
    cp -r "$mpi_prefix/$help/." "$target/$help/"
    pmix=$(ldd "$mpi_prefix/$plugins"/mca_pmix_ext*.so | awk '$1 ~ /^libpmix\.so/ {print $3}')
    if [[ -n $pmix ]]; then cp -L "$(dirname "$(realpath "$pmix")")"/pmix/*.so "$target/lib/pmix/"; fi
}

elf_files() { find "$target" -type f \( -executable -o -name '*.so*' \) -print0 | LC_ALL=C xargs -0 grep -laP '^\x7fELF'; }

# All libraries that these need, but glibc's, which belong to the machine's loader, and CUDA's, which belong to its driver and
# are ten times as large as all the rest.
copy_libraries() {
    local glibc='^(ld-linux.*|lib(c|m|mvec|dl|pthread|rt|resolv|util|anl|nsl|nss_.*|BrokenLocale|thread_db))\.so'
    local cuda='^lib(cuda|cudart|cublas|cublasLt|nccl|nvrtc|nvJitLink)\.so'
    elf_files | xargs -d '\n' ldd 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u | while read -r library; do
        [[ $(basename "$library") =~ $glibc|$cuda ]] || cp -L "$library" "$target/lib/"
    done
}

# A program finds its libraries beside itself before any that LD_LIBRARY_PATH names, a cluster's other Open MPI, say: so an
# RPATH, which holds for the libraries of libraries as well if they have none of their own.
relocate() {
    elf_files | while read -r file; do
        chmod u+w "$file"
        strip --strip-unneeded "$file"
        case $file in
            "$target"/bin/* | "$target"/tests/*) patchelf --force-rpath --set-rpath "\$ORIGIN/../lib" "$file" ;;
            *) patchelf --remove-rpath "$file" ;;
        esac
    done
}

# What the GNU C library must have at least: the highest version that is asked for.
glibc_version() { elf_files | xargs -d '\n' objdump -T 2>/dev/null | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1 | sed 's/GLIBC_//'; }

copy_programs
copy_mpi
copy_libraries
relocate
cp -r "$here/README.md" "$here/config" "$here/jobs" "$target/"
cp "$here"/scripts/{environment.sh,checkpoint_to_safetensors.py} "$target/scripts/"
for name in longlora_hpc mpirun orted; do
    install -m 755 "$here/scripts/bundle_start.sh" "$target/$name"
done

echo "$target: $(du -sm "$target" | cut -f1) MiB, for x86-64 Linux with glibc $(glibc_version) or later"
if ((pack)); then
    XZ_OPT=-T0 tar -C "$(dirname "$target")" --owner=0 --group=0 -cJf "$target.tar.xz" "$(basename "$target")"
    echo "$target.tar.xz: $(du -m "$target.tar.xz" | cut -f1) MiB"
fi
