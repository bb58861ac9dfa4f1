#!/bin/bash
# A real Slurm of one node (controller, node daemon, munge) on this machine for a test, as root:
#   one-node-slurm.sh start DIR     then: export SLURM_CONF=DIR/slurm.conf
#   one-node-slurm.sh stop DIR      ends what start began
# Needs Debian's slurm-wlm and munge.
set -eu
dir=$2
case $1 in
start)
    host=$(hostname -s)
    mkdir -p "$dir/state" "$dir/spool" /run/munge
    chown munge: /run/munge
    cat >"$dir/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
    if ! munge -n >/dev/null 2>&1; then
        su -s /bin/sh munge -c /usr/sbin/munged
        touch "$dir/munged"
    fi
    slurmctld -f "$dir/slurm.conf"
    slurmd -f "$dir/slurm.conf"
    export SLURM_CONF=$dir/slurm.conf
    for _ in $(seq 60); do
        [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && exit 0
        sleep 0.5
    done
    echo "Slurm did not become idle; see $dir/slurmctld.log" >&2
    exit 1
    ;;
stop)
    for p in slurmd slurmctld; do
        [ -f "$dir/$p.pid" ] || continue
        pid=$(cat "$dir/$p.pid")
        kill "$pid" 2>/dev/null
        while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    done
    [ -f "$dir/munged" ] && kill "$(cat /run/munge/munged.pid)" 2>/dev/null
    true
    ;;
esac
