#!/usr/bin/env bash
# Starts a throw-away Slurm of two fake nodes in an empty folder:  up.sh DIR      then: export SLURM_CONF=DIR/slurm.conf
# Root, Slurm 22.05 and munge suffice: no systemd, no cgroups, nothing under /etc. down.sh DIR stops it.
set -euo pipefail
dir=$1
export SLURM_CONF=$dir/slurm.conf PATH=$PATH:/usr/sbin:/sbin    # down.sh knows the processes by this SLURM_CONF
host=$(hostname -s 2>/dev/null || cat /proc/sys/kernel/hostname)

mkdir -p "$dir"/{munge,state,spool,log} "$dir"/tmp/n{1,2}
chmod 755 "$dir" "$dir/munge"
chmod 700 "$dir/state"
chmod 1777 "$dir"/tmp/n{1,2}

# Three neighbouring ports, below the range from which srun and Open MPI get theirs
port=$(python3 - <<'PY'
import random, socket
def free(port):
    with socket.socket() as s:
        try: s.bind(("", port))
        except OSError: return False
    return True
print(next(p for p in random.sample(range(10000, 30000), 1000) if all(free(p + i) for i in range(3))))
PY
)

# With a host name and a /dev/shm of its own, a slurmd is like a node, to Open MPI too
own_host=0
if unshare --uts --mount true 2>/dev/null; then own_host=1; fi
node_hosts=$host
if ((own_host)); then node_hosts='n[1-2]'; fi

# Every task and the batch script get these: root, the loopback, more ranks than cores.
# Two "nodes" that share a host's name and memory must talk by TCP.
cat >"$dir/prolog.sh" <<'PROLOG'
#!/bin/sh
echo export OMPI_ALLOW_RUN_AS_ROOT=1
echo export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
echo export OMPI_MCA_btl_tcp_if_include=lo
echo export OMPI_MCA_oob_tcp_if_include=lo
echo export OMPI_MCA_mpi_yield_when_idle=1
[ "$(hostname)" = "$SLURMD_NODENAME" ] || echo export OMPI_MCA_btl=self,tcp
PROLOG
chmod 755 "$dir/prolog.sh"

# slurmd loads a cgroup plugin in any case, and only v1 starts where there are no cgroups
printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n' >"$dir/cgroup.conf"
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire: a requeued job starts again after 6 s, not after two minutes
AuthInfo=socket=$dir/munge/socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
MailProg=/bin/true
KillWait=5
ReturnToService=2
TaskProlog=$dir/prolog.sh
# PMIx of two slurmds on one host would meet in one /tmp
TmpFS=$dir/tmp/%n
# a node may claim more cores than the machine has
SlurmdParameters=config_overrides
NodeName=n[1-2] NodeHostname=$node_hosts NodeAddr=127.0.0.1 Port=$((port + 1))-$((port + 2)) CPUs=4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF

# --force: root may run it, and below a folder of ours
head -c 1024 /dev/urandom >"$dir/munge/key"
chmod 400 "$dir/munge/key"
munged --force --num-threads=2 --key-file="$dir/munge/key" --socket="$dir/munge/socket" --seed-file="$dir/munge/seed" \
    --pid-file="$dir/munge/pid" --log-file="$dir/log/munged.log"
setsid slurmctld -D -c </dev/null >"$dir/log/slurmctld.out" 2>&1 &
for node in n1 n2; do
    if ((own_host)); then
        setsid unshare --uts --mount --propagation private sh -c \
            "echo $node >/proc/sys/kernel/hostname && mount -t tmpfs tmpfs /dev/shm && exec slurmd -D -N $node" \
            </dev/null >"$dir/log/$node.out" 2>&1 &
    else
        setsid slurmd -D -N $node </dev/null >"$dir/log/$node.out" 2>&1 &
    fi
done

for ((i = 0; i < 200; i++)); do
    if [[ $(timeout 5 sinfo -h -N -o %T 2>/dev/null | grep -cx idle) == 2 ]]; then exit 0; fi
    sleep 0.1
done
echo "up.sh: the nodes are not idle after 20 s" >&2
grep -hE 'error|fatal' "$dir"/log/* >&2 || true
exit 1
