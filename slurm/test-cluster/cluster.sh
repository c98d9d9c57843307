#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A Slurm of one controller and two nodes on this host, for the current user, without systemd: to try the templates, and for
# the tests of label `slurm`. Wants Debian's packages slurmctld, slurmd, slurm-client and munge.
#
#   cluster.sh start DIR      starts it; everything that it writes is in DIR, a new or empty folder with a short path
#   cluster.sh stop DIR       ends its jobs, their processes and its daemons; leaves DIR, with the logs
#   cluster.sh kill DIR NODE  what a power failure does to node1 or node2
#   cluster.sh run CMD ...    starts one in a temporary folder, runs CMD for it, stops it, and removes the folder; ends with
#                             CMD's status, or with 77 where Slurm is not installed
#
# Slurm's commands reach it by SLURM_CONF=DIR/slurm.conf, which `run` sets. Each node claims 32 cores and 16 GB. Jobs in the
# partition `urgent` preempt those in the default one.
set -euo pipefail
PATH=$PATH:/usr/sbin

nodes=(node1 node2)

usage() {
  sed -n '/^# *cluster.sh/s/^# *//p' "$0" >&2
  exit 2
}

fail() {
  echo "cluster.sh: $*" >&2
  exit 4
}

# Processes on some of the hosts of the cluster in $dir: daemons and what supervises jobs, which have their host's log open
# (they overwrite their environment), and the jobs' own, whose environment says the cluster and the host.
processes() { # HOST ...
  local host file
  {
    for host in "$@"; do find /proc/[0-9]*/fd -lname "$dir/$host.log" || true; done
    for file in /proc/[0-9]*/environ; do
      if grep -qzxF "SLURM_CONF=$dir/slurm.conf" "$file" && grep -qzxF "${@/#/-eSLURMD_NODENAME=}" "$file"; then echo "$file"; fi
    done
  } 2>/dev/null | sed 's|^/proc/||; s|/.*||' | sort -u
}

# Runs a command until it succeeds, for at most so many seconds.
wait_for() { # SECONDS CMD ...
  local end=$((SECONDS + $1))
  shift
  until "$@" &>/dev/null; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.1
  done
}

free_ports() { # COUNT
  python3 -c 'import socket, sys
ports = [socket.create_server(("", 0)) for _ in range(int(sys.argv[1]))]
print(*(port.getsockname()[1] for port in ports))' "$1"
}

# Quick where Slurm's defaults are patient: a requeued job waits for cred_expire (120 s by default), a job that does not end
# when told for KillWait (30 s), and a silent node is given up after SlurmdTimeout (300 s). Each daemon has its own TmpFS, as
# PMIx names its sockets there by job and step alone.
write_conf() {
  local ports user host i
  read -ra ports < <(free_ports $((1 + ${#nodes[@]})))
  user=$(id -un) host=$(hostname)
  cat >"$dir/slurm.conf" <<CONF
ClusterName=reshard
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmctldPidFile=$dir/slurmctld.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdSpoolDir=$dir/%n
SlurmdPidFile=$dir/%n.pid
SlurmdLogFile=$dir/%n.log
TmpFS=$dir/%n
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1,sched_min_interval=0
JobRequeue=0
KillWait=10
SlurmdTimeout=5
SlurmctldTimeout=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
PropagateResourceLimits=NONE
CONF
  for i in "${!nodes[@]}"; do
    echo "NodeName=${nodes[i]} NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[i + 1]} CPUs=32 RealMemory=16000"
  done >>"$dir/slurm.conf"
  cat >>"$dir/slurm.conf" <<CONF
PartitionName=all Nodes=ALL Default=YES
PartitionName=urgent Nodes=ALL PriorityTier=2
CONF
}

start() {
  local program node name_it=()
  for program in munged slurmctld slurmd sbatch; do
    command -v $program >/dev/null || { echo "skipped: no $program; apt-get install slurmctld slurmd slurm-client munge" >&2; exit 77; }
  done
  [ ! -e "$dir/slurm.conf" ] || fail "$dir: holds a cluster; stop it and remove the folder"
  mkdir -p "$dir/state" "${nodes[@]/#/$dir/}"
  chmod 755 "$dir"  # munged wants its socket's folder open to all
  (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
  write_conf
  export SLURM_CONF=$dir/slurm.conf

  munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munged.seed" 2>>"$dir/munged.err" || fail "munged: see $dir/munged.err"
  slurmctld -i -f "$SLURM_CONF" 2>>"$dir/slurmctld.err" || fail "slurmctld: see $dir/slurmctld.err"
  # Hosts with names of their own, where the kernel lets us have them.
  # shellcheck disable=SC2016
  if unshare --uts true 2>/dev/null; then name_it=(unshare --uts sh -c 'hostname "$0" && exec "$@"'); fi
  for node in "${nodes[@]}"; do
    "${name_it[@]}" ${name_it:+"$node"} slurmd -N "$node" -f "$SLURM_CONF" \
      2>>"$dir/$node.err" || fail "slurmd: see $dir/$node.err"
  done
  wait_for 30 all_idle || fail "the nodes do not come up: see the logs in $dir"
}

all_idle() { [ "$(sinfo -h -N -t idle -o %N | sort -u | wc -l)" = ${#nodes[@]} ]; }
no_jobs() { [ -z "$(squeue -h)" ]; }
all_gone() { [ -z "$(processes "$@")" ]; }

end() { # HOST ...: all their processes, for good
  local pids
  while mapfile -t pids < <(processes "$@") && [ ${#pids[@]} -gt 0 ]; do
    kill -KILL "${pids[@]}" 2>/dev/null || true
    sleep 0.1
  done
}

stop() {
  local hosts=(munged slurmctld "${nodes[@]}") pids
  export SLURM_CONF=$dir/slurm.conf
  if timeout 5 scancel --user="$(id -un)" 2>/dev/null; then wait_for 3 no_jobs || true; fi  # waiting srun commands end, too
  mapfile -t pids < <(processes "${hosts[@]}")
  [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
  wait_for 3 all_gone "${hosts[@]}" || end "${hosts[@]}"
}

command=${1:-}
[ $# -ge 2 ] || usage
shift
case $command in
  run) dir=$(mktemp -d /tmp/slurm.XXXXXX) ;;
  after) pid=$1 dir=$2 ;;
  *) dir=$(realpath -m "$1"); shift ;;
esac
case $command in
  start)
    trap '[ $? = 0 ] || stop' EXIT
    start
    echo "export SLURM_CONF=$dir/slurm.conf"
    ;;
  stop) stop ;;
  kill) [ $# = 1 ] || usage; end "$1" ;;
  run)
    trap 'stop; rm -rf "$dir"' EXIT
    trap 'exit 130' INT TERM
    (setsid "$0" after $$ "$dir" &>/dev/null &)
    start
    "$@"
    ;;
  after) # DIR of process PID: whoever kills that for good leaves no cluster behind
    while [ -e "/proc/$pid" ]; do sleep 1; done
    if [ -d "$dir" ]; then stop; fi
    rm -rf "$dir"
    ;;
  *) usage ;;
esac
