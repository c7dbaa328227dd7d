#!/usr/bin/env bash
# Installs what is missing of the groups named:  install.sh [build|test|bundle|lint|oracle]...      (default: build)
# Debian 12 and Ubuntu 24.04 know these names. Where all is there it costs a tenth of a second.
set -euo pipefail

packages() {
    case $1 in
        build) echo g++ cmake ninja-build make pkg-config openmpi-bin libopenmpi-dev libhdf5-openmpi-dev hdf5-tools \
            libboost-program-options-dev libboost-test-dev libopenblas-openmp-dev libsentencepiece-dev sentencepiece \
            nlohmann-json3-dev libhwy-dev libxxhash-dev libpcre2-dev ;;
        test) echo python3 python3-numpy python3-h5py slurm-wlm munge ;;
        bundle) echo libblis-openmp-dev patchelf binutils xz-utils ;;
        # 16 by name: 14, Debian's default, has no std::source_location, and another version formats differently
        lint) echo git python3 clang-format-16 clang-tidy-16 shellcheck ;;
        oracle) echo python3 python3-numpy python3-torch ;;
        *) echo "install.sh: unknown group '$1' (build, test, bundle, lint, oracle)" >&2; return 2 ;;
    esac
}

wanted=()
for group in "${@:-build}"; do
    names=$(packages "${group#--}")
    read -ra names <<<"$names"
    wanted+=("${names[@]}")
done

# On a cluster the packages come as modules, and CMake is the one that knows whether they suffice.
leave_it_to_the_user() {
    cat >&2 <<END
install.sh: $1. Needed are, as packages or as modules of the cluster:
    a C++20 compiler, CMake 3.22, Open MPI, parallel HDF5 1.10, Boost 1.74 (program_options, unit_test_framework),
    OpenBLAS or another CBLAS, SentencePiece, nlohmann_json, Highway, xxHash, PCRE2
    (Debian's names: ${2:-${wanted[*]}})
Going on; CMake names what it does not find.
END
    exit 0
}

command -v apt-get >/dev/null || leave_it_to_the_user "there is no apt-get here"

mapfile -t installed < <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null | sed -n 's/^installed //p')
missing=()
for name in "${wanted[@]}"; do
    [[ " ${installed[*]} ${missing[*]-} " == *" $name "* ]] || missing+=("$name")
done
((${#missing[@]})) || exit 0

as_root=()
if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || leave_it_to_the_user "neither root nor sudo" "${missing[*]}"
    as_root=(sudo)
fi
echo "install.sh: installing ${missing[*]}"
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"; }
apt update
apt install -y --no-install-recommends "${missing[@]}" >/dev/null
