# shellcheck shell=bash
# Sourced: what lets a plain `mpirun -np 8` work on one machine. Whatever is set already stays as it is.

if [[ $(id -u) == 0 ]]; then
    export OMPI_ALLOW_RUN_AS_ROOT="${OMPI_ALLOW_RUN_AS_ROOT-1}"
    export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM-1}"
fi

# Inside an allocation, or with hosts named, the cluster's own settings are the right ones.
if [[ -z ${SLURM_JOB_ID-}${PBS_JOBID-}${LSB_JOBID-}${PE_HOSTFILE-}${OMPI_MCA_orte_default_hostfile-} ]]; then
    # more ranks than cores may start, and a rank that waits gives its core away (else an Allreduce takes 600 times as long)
    export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe-1}"
    export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle-1}"
    # one or two ranks would be bound to one core each, with all their threads
    export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy-none}"
    # all ranks are here: the loopback cannot be the wrong interface (a VPN's, a container bridge's).
    # Open MPI refuses include and exclude together.
    if [[ -e /sys/class/net/lo ]]; then
        [[ -v OMPI_MCA_btl_tcp_if_exclude ]] || export OMPI_MCA_btl_tcp_if_include="${OMPI_MCA_btl_tcp_if_include-lo}"
        [[ -v OMPI_MCA_oob_tcp_if_exclude ]] || export OMPI_MCA_oob_tcp_if_include="${OMPI_MCA_oob_tcp_if_include-lo}"
    fi
fi
