#!/usr/bin/env bash
# In a bundle (bundle.sh) this is longlora_hpc, mpirun and orted: the program of that name in bin/, which finds the rest of
# the bundle wherever that has been moved.
self=$(readlink -f "${BASH_SOURCE[0]}")
bundle=$(dirname "$self") name=$(basename "$self")
# shellcheck source=scripts/environment.sh
source "$bundle/scripts/environment.sh"

# Open MPI looks up programs in PATH even if that is not set, and PMIx crashes without a home
export PATH HOME=${HOME-/}
export OPAL_PREFIX=$bundle OMPI_MCA_orte_launch_agent=$bundle/orted
# not the machine's plugins, which another PMIx's are
export PMIX_PKGLIBDIR=$bundle/lib/pmix PMIX_MCA_pcompress_base_silence_warning=1
# else mpirun would not even start on one machine
command -v ssh >/dev/null || command -v rsh >/dev/null || export OMPI_MCA_plm_rsh_agent=${OMPI_MCA_plm_rsh_agent-/bin/false}

# hwloc complains on every start where a container hides /sys
[[ -e /sys/devices/system/cpu ]] || export HWLOC_HIDE_ERRORS=2

# Folders of Python packages that hold CUDA's libraries, colons between them: PyTorch brings its own.
python_cuda_libraries() {
    python3 - <<'END' 2>/dev/null
import glob, importlib.util, os, sys
spec = importlib.util.find_spec("nvidia")
roots = list(spec.submodule_search_locations) if spec else []
folders = [os.path.join(sys.prefix, "lib")] + [f for root in roots for f in sorted(glob.glob(root + "/*/lib"))]
print(":".join(f for f in folders if glob.glob(f + "/libcublasLt.so*") or glob.glob(f + "/libnccl.so*")))
END
}
# mpirun asks once for the ranks of its machine, and only where there is a driver
if [[ ! -v LONGLORA_CUDA_LIBRARIES && ( -e /dev/nvidiactl || -e /dev/dxg ) ]] && command -v python3 >/dev/null; then
    LONGLORA_CUDA_LIBRARIES=$(python_cuda_libraries)
    export LONGLORA_CUDA_LIBRARIES
fi

exec "$bundle/bin/$name" "$@"
