#!/bin/sh
# A surrounding for daemons: mount, network and process namespaces with a /run of their own. It
# lives until standard input ends, and with it goes everything that ran there, however the
# caller ended: the caller's end closes its side of the pipe.
#
# With `systemd`, the machine's own can be asked for cgroups from inside: it is seen below /run, and
# processes have the numbers that it knows them by. CGROUP is then a slice.
#
# usage: pen DIR CGROUP [systemd]     prints the process id of its init; removes DIR and CGROUP at the end
dir=$1
cgroup=$2
systemd=${3-}

inside='
set -e
dir=$0
cgroup=$1
systemd=$2
# Before the new /proc: as the caller counts.
read -r pid _ </proc/self/stat
mkdir "$dir/sys" "$dir/run"
if [ -n "$systemd" ]; then
    mount --rbind /run "$dir/run"
fi
mount -t tmpfs -o mode=755 run /run
if [ -n "$systemd" ]; then
    for sub in systemd dbus; do
        mkdir "/run/$sub"
        mount --rbind "$dir/run/$sub" "/run/$sub"
    done
    umount -l "$dir/run"
fi
# The network devices of this namespace are in a new sysfs only; what is mounted below it comes along.
for sub in fs/cgroup kernel/security fs/bpf; do
    if mountpoint -q "/sys/$sub"; then
        mkdir -p "$dir/sys/$sub"
        mount --rbind "/sys/$sub" "$dir/sys/$sub"
    fi
done
mount -t sysfs sysfs /sys
for sub in fs/cgroup kernel/security fs/bpf; do
    if [ -d "$dir/sys/$sub" ]; then
        mount --rbind "$dir/sys/$sub" "/sys/$sub"
        umount -l "$dir/sys/$sub"
    fi
done
[ -n "$systemd" ] || mount -t proc proc /proc
# Shared among the namespaces made in here, as on ordinary hosts.
mount --make-rshared /
ip link set lo up
echo "$pid"
# bash reaps what is left to it meanwhile.
while read -r _; do :; done
set +e
# A frozen process does not die.
thaw() {
    find /sys/fs/cgroup -path "*$cgroup/*" -name freezer.state 2>/dev/null |
        while read -r file; do echo THAWED >"$file"; done
    find /sys/fs/cgroup -path "*$cgroup/*" -name cgroup.freeze 2>/dev/null |
        while read -r file; do echo 0 >"$file"; done
}
thaw
if [ -n "$systemd" ]; then
    # First whoever could start more: what lives in this network.
    own=$(readlink /proc/self/ns/net)
    for process in /proc/[0-9]*; do
        case ${process#/proc/} in
            # unshare has gone in as well.
            $$ | $PPID) ;;
            *) [ "$(readlink "$process/ns/net")" != "$own" ] || kill -9 "${process#/proc/}" ;;
        esac
    done 2>/dev/null
    systemctl kill --signal=KILL "${cgroup#/}"
    systemctl stop "${cgroup#/}"
else
    kill -9 -1
fi
thaw
'
unshare --mount --net $([ -n "$systemd" ] || echo --pid) --fork --kill-child bash -c "$inside" "$dir" "$cgroup" "$systemd"

# A cgroup is busy for a moment after its last process.
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    find /sys/fs/cgroup -depth -type d -path "*$cgroup*" -exec rmdir {} + 2>/dev/null
    [ -n "$(find /sys/fs/cgroup -type d -path "*$cgroup*" 2>/dev/null)" ] || break
    sleep 0.1
done
rm -rf "$dir"
