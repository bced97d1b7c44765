#!/bin/sh
# Boots systemd as process 1 of a machine of its own: the file system is an overlay that goes away
# with it; process ids, mounts, host name, IPC and cgroups are its own; the network is whatever
# namespace this was started in. Nothing it does is seen by the machine that it runs on.
#
# usage: boot.sh outer BASE   BASE is an empty folder, a neighbour of `host`: the host's own files
#        boot.sh down BASE    takes the cgroups of BASE away, and those of runs that were killed
# Both in a mount namespace of their own, without propagation.
set -eu
stage=$1
base=$2

# The cgroup hierarchy is one for the whole machine: this one gets a folder in it, named after
# BASE, and sees that folder as its root.
group=$(basename "$base")

case "$stage" in
down)
    mount -t cgroup2 cgroup2 "$base"
    for left in "$base"/edge-deploy-*-host; do
        [ -d "$left" ] || continue
        owner=${left##*/edge-deploy-}
        owner=${owner%-host}
        if [ "${left##*/}" = "$group" ] || ! [ -d "/proc/$owner" ]; then
            find "$left" -depth -type d -exec rmdir {} +
        fi
    done
    ;;
outer)
    mount -t tmpfs -o size=1g,mode=755 edge-deploy "$base"
    mkdir "$base/upper" "$base/work" "$base/root" "$base/cgroup"
    mount -t cgroup2 cgroup2 "$base/cgroup"
    mkdir "$base/cgroup/$group"
    echo $$ >"$base/cgroup/$group/cgroup.procs"
    umount "$base/cgroup"
    exec unshare --fork --kill-child=KILL --pid --mount --uts --ipc --cgroup \
        sh "$0" inner "$base"
    ;;
inner) # process 1 to be
    root=$base/root
    hostname "$group"
    mount -t overlay overlay \
        -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t bpf -o mode=700 bpf "$root/sys/fs/bpf"
    # What is not of this network namespace must not be set from here.
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -o remount,bind,ro "$root/sys"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    mkdir "$root/dev/pts" "$root/dev/shm"
    for device in null zero full random urandom tty; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"

    # Only what a small server needs comes up: no service of the machine below.
    find "$root/etc/systemd/system" -mindepth 1 -delete
    rm -rf "$root/etc/edge" "$root/var/lib/edge" "$root/usr/local/sbin/edge" \
        "$root/usr/local/lib/edge" "$root/var/log/journal" "$root/etc/fstab"
    for unit in systemd-udevd.service systemd-udev-trigger.service systemd-modules-load.service \
        systemd-random-seed.service systemd-timesyncd.service systemd-networkd.service \
        systemd-logind.service systemd-pcrphase.service systemd-pstore.service getty.target \
        timers.target systemd-hwdb-update.service systemd-firstboot.service \
        systemd-sysusers.service systemd-update-utmp.service systemd-tmpfiles-setup.service \
        sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
        dev-hugepages.mount; do
        ln -s /dev/null "$root/etc/systemd/system/$unit"
    done
    echo "$group" | md5sum | cut -c1-32 >"$root/etc/machine-id"
    mkdir -p "$root/etc/edge-test"
    cp -r "$(dirname "$base")/host/." "$root/etc/edge-test/"
    chmod 700 "$root/etc/edge-test"
    chmod 600 "$root/etc/edge-test/"*
    mkdir -p "$root/root/.ssh"
    chmod 700 "$root/root" "$root/root/.ssh"
    cp "$root/etc/edge-test/authorized_keys" "$root/root/.ssh/authorized_keys"
    cat >"$root/etc/systemd/system/edge-test.target" <<'UNIT'
[Unit]
Requires=basic.target
Wants=edge-test-sshd.service
UNIT
    cat >"$root/etc/systemd/system/edge-test-sshd.service" <<'UNIT'
[Service]
RuntimeDirectory=sshd
ExecStart=/usr/sbin/sshd -D -e -f /etc/edge-test/sshd_config
UNIT

    mkdir "$root/oldroot"
    cd "$root"
    pivot_root . oldroot
    umount -l /oldroot
    rmdir /oldroot
    exec env -i container=edge-test PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --system --unit=edge-test.target --show-status=0
    ;;
esac
