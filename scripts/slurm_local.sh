#!/usr/bin/env bash
# A real two-node Slurm on this one machine, for trying and testing job scripts.
#
#   scripts/slurm_local.sh start  [DIR]   start munged, slurmctld and slurmd for nodes n1 and n2
#   scripts/slurm_local.sh status [DIR]   show the nodes; exit code 0 if both take jobs
#   scripts/slurm_local.sh stop   [DIR]   stop the daemons and remove DIR
#
# `start` prints one line on stdout, so that a shell can pick the new cluster up with
#
#   eval "$(scripts/slurm_local.sh start)" && sinfo
#
# Everything lives in DIR (default: /tmp/hpc_sla-slurm-<uid>): configuration, state, logs and a munge key
# of its own. /etc/slurm and the system's munge are neither read nor changed, and the ports are free
# ones picked at start. On Debian: apt-get install slurmctld slurmd slurm-client munge
set -euo pipefail

usage() { sed -n '2,7p' "$0" | sed 's/^# \{0,1\}//' >&2; exit 2; }

action=${1:-}
dir=${2:-${TMPDIR:-/tmp}/hpc_sla-slurm-$(id -u)}
[[ $action =~ ^(start|stop|status)$ ]] || usage
(($# <= 2)) || usage
[[ $dir == /* ]] || dir=$PWD/$dir
conf=$dir/slurm.conf
nodes=(n1 n2)
cpus_per_node=4       # what Slurm is told; the machine may have fewer, ranks then share cores
seconds_to_start=60

PATH=$PATH:/usr/sbin:/sbin   # the daemons live there, and an ordinary user's PATH may lack it
export SLURM_CONF=$conf

say() { printf '%s\n' "$*" >&2; }
die() { say "slurm_local.sh: $*"; exit 1; }

# The process of a pid file, if it still runs and is the program that we think it is (pids are reused).
running() {
    local pid_file=$1 program=$2 pid
    [[ -s $pid_file ]] && read -r pid <"$pid_file" || return 1
    [[ -r /proc/$pid/cmdline ]] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q "$program.*$dir" && printf '%s' "$pid"
}

# stop_daemons PROGRAM PID_FILE [PROGRAM PID_FILE]...: ask all, wait for all, insist after five seconds.
stop_daemons() {
    local pid pids=()
    while (($#)); do
        if pid=$(running "$2" "$1"); then
            pids+=("$pid")
            kill "$pid" 2>/dev/null || true
        fi
        shift 2
    done
    for _ in $(seq 50); do
        for pid in "${!pids[@]}"; do kill -0 "${pids[$pid]}" 2>/dev/null || unset "pids[$pid]"; done
        ((${#pids[@]})) || return 0
        sleep 0.1
    done
    kill -9 "${pids[@]}" 2>/dev/null || true
}

both_nodes_take_jobs() {
    local states
    states=$(timeout 5 sinfo --noheader --Node --format '%T' 2>/dev/null) || return 1
    [[ $(grep -cE '^(idle|mixed|allocated|completing)$' <<<"$states") == "${#nodes[@]}" ]]
}

write_configuration() {
    local host ports user
    host=$(hostname -s)
    user=$(id -un)
    # Asking the kernel for free ports keeps two of these clusters, or a real one, from colliding.
    read -r -a ports < <(python3 - "$((${#nodes[@]} + 1))" <<'PY'
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in held:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))
PY
    )
    cat >"$conf" <<CONF
ClusterName=hpc_sla_local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/munge/socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
# No cgroups and no binding: both nodes are this machine, possibly a container without those rights.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
# Start jobs and notice nodes within a second or two instead of the minute that suits a big cluster.
SchedulerParameters=batch_sched_delay=0,sched_interval=2
ReturnToService=2
# MPICH names shared memory by the job, and a killed job leaves its own behind: not the same numbers each time.
FirstJobId=$((1 + SRANDOM % 1000000))
SlurmctldTimeout=30
SlurmdTimeout=60
InactiveLimit=0
KillWait=5
NodeName=${nodes[0]} NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=$cpus_per_node State=UNKNOWN
NodeName=${nodes[1]} NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[2]} CPUs=$cpus_per_node State=UNKNOWN
PartitionName=local Nodes=ALL Default=YES MaxTime=01:00:00 OverSubscribe=YES State=UP
CONF
    # slurmd sets cgroups up even where no plugin uses them, and gives up in a container that has none to
    # give. Releases from 23.02 on can be told not to; for older ones v1 is the one that starts unmounted.
    case $(slurmd -V | grep -oE '[0-9]+\.[0-9]+' | head -1) in
    2[0-2].*) echo "CgroupPlugin=cgroup/v1" >"$dir/cgroup.conf" ;;
    *) echo "CgroupPlugin=disabled" >"$dir/cgroup.conf" ;;
    esac
}

start() {
    local program missing=()
    for program in munged slurmctld slurmd sinfo python3; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    ((${#missing[@]} == 0)) ||
        die "not installed: ${missing[*]}. On Debian: apt-get install slurmctld slurmd slurm-client munge"

    if [[ -e $conf ]] && both_nodes_take_jobs; then
        say "already running in $dir"
        echo "export SLURM_CONF=$conf"
        return
    fi
    stop
    mkdir -p "$dir"/{munge,state,log}
    for node in "${nodes[@]}"; do mkdir -p "$dir/spool-$node"; done
    # munged refuses a socket that others cannot reach and a key that others can read; slurm's job
    # steps of other users traverse the folder too.
    chmod 0755 "$dir" "$dir/munge" "$dir/state" "$dir/log"
    (umask 077 && head -c 1024 /dev/urandom >"$dir/munge/key")
    write_configuration

    # --force: munged otherwise rejects sticky, world-writable parents such as /tmp.
    munged --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" --pid-file="$dir/munge/pid" \
        --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" >>"$dir/log/munged.log" 2>&1 ||
        give_up "munged did not start"
    slurmctld -f "$conf" >>"$dir/log/slurmctld.log" 2>&1 || give_up "slurmctld did not start"
    for node in "${nodes[@]}"; do
        slurmd -f "$conf" -N "$node" >>"$dir/log/slurmd-$node.log" 2>&1 || give_up "slurmd for $node did not start"
    done
    for _ in $(seq $((seconds_to_start * 4))); do
        if both_nodes_take_jobs; then
            say "two-node Slurm is up in $dir (logs: $dir/log)"
            echo "export SLURM_CONF=$conf"
            return
        fi
        sleep 0.25
    done
    give_up "the nodes were not idle after $seconds_to_start s"
}

# Show what the daemons said last, then clean up: a half-started cluster helps nobody.
give_up() {
    say "slurm_local.sh: $1"
    tail -n 15 "$dir"/log/*.log "$dir/munge/log" >&2 2>/dev/null || true
    stop
    exit 1
}

stop() {
    [[ -d $dir ]] || return 0
    [[ -e $conf || -d $dir/munge ]] || die "$dir is not a folder that this script made; leaving it alone"
    if [[ -e $conf ]] && running "$dir/slurmctld.pid" slurmctld >/dev/null; then
        timeout 10 scancel --quiet --partition=local >/dev/null 2>&1 || true
    fi
    local node daemons=(slurmctld "$dir/slurmctld.pid")
    for node in "${nodes[@]}"; do daemons+=(slurmd "$dir/slurmd-$node.pid"); done
    stop_daemons "${daemons[@]}"
    stop_daemons munged "$dir/munge/pid" # last: the others still talk through it
    rm -rf "$dir"
}

case $action in
start) start ;;
stop)
    stop
    say "stopped"
    ;;
status)
    [[ -e $conf ]] || die "no cluster in $dir"
    timeout 5 sinfo --Node --long || true
    both_nodes_take_jobs
    ;;
esac
