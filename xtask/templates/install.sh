#!/bin/sh
# Installs the version of Edge beside this file on the machine it runs on.
# Nothing is changed before the new version has found the configuration good; when it does not
# start, the former version is put back.
set -eu

usage() {
    cat <<'TEXT'
usage: install.sh [--root DIR] [--management-source ADDRESS] [--confirm-within SECONDS]
  --root DIR                   install into a file system that is not running: no service is
                               restarted there
  --management-source ADDRESS  refuse when ADDRESS is not inside the configuration's
                               management prefixes (an ssh session gives its own)
  --confirm-within SECONDS     wait for /usr/local/lib/edge/confirmed to be made, over a new
                               connection, and take the new version back when it is not
exit codes: 0 installed, 1 not installed, 2 refused and nothing changed,
            3 did not start, and the former version is back with what it enforced,
            4 did not start, and nothing ran or was enforced before,
            5 started, but was not confirmed, and is taken back
TEXT
}

# The ssh connection may be gone by now: a line that nobody reads must not end the script.
say() { echo "edge: $*" || true; }
fail() { code=$1; shift; echo "edge: error: $*" >&2 || true; exit "$code"; }

root='' source='' seconds=0
while [ $# -gt 0 ]; do
    case "$1" in
        --root) root=${2:?--root needs a folder}; shift 2 ;;
        --management-source) source=${2-}; [ -n "$source" ] || fail 2 "the ssh session does not say where it comes from"; shift 2 ;;
        --confirm-within) seconds=${2:?--confirm-within needs seconds}; shift 2 ;;
        --help) usage; exit 0 ;;
        *) usage >&2; exit 1 ;;
    esac
done

here=$(cd "$(dirname "$0")" && pwd)
[ "$(id -u)" = 0 ] || fail 1 "this needs root"
if [ -n "$root" ]; then
    [ -d "$root" ] || fail 1 "$root is no folder"
    root=$(cd "$root" && pwd)
    [ "$root" != / ] || root=''
    offline=yes
else
    offline=''
fi

library=$root/usr/local/lib/edge
config=$root/etc/edge/edge.toml
# What makes a version: these files, all or none. In the archive by their base names.
files='usr/local/sbin/edge etc/systemd/system/edge.service etc/systemd/system/edge-load.service
etc/sysctl.d/60-edge.conf etc/sysusers.d/edge.conf etc/edge/edge.toml.example
usr/local/share/doc/edge/README
usr/local/share/doc/edge/LICENSE-MIT usr/local/share/doc/edge/LICENSE-APACHE'

# A broken ssh connection must not leave half an installation.
trap '' HUP PIPE
mkdir -p "$library"
exec 9>"$library/lock"
flock -n 9 || fail 1 "another installation is running"

# The new program, asked from where it lies. In another root it needs that root's libraries.
new_edge() {
    if [ -z "$offline" ]; then "$here/edge" "$@"; else chroot "${root:-/}" "$inside/edge" "$@"; fi
}

check() {
    if [ -n "$offline" ]; then
        incoming=$(mktemp -d "$library/incoming.XXXXXX")
        trap 'rm -rf "$incoming"' EXIT
        cp "$here/edge" "$incoming/edge"
        inside=${incoming#"$root"}
    fi
    if ! new_edge --version >/dev/null 2>&1; then
        if [ -n "$offline" ]; then
            say "warning: the program does not run inside $root, so nothing was checked there"
            return 0
        fi
        new_edge --version || true
        fail 2 "the program does not run here (another processor, or an older C library?)"
    fi
    [ -e "$config" ] || return 0
    set -- check -c "${config#"$root"}"
    [ -z "$source" ] || set -- "$@" --management-source "$source"
    new_edge "$@" || fail 2 "the new version refuses $config: nothing was changed"
    say "the new version finds $config good"
}

put() { # MODE FILE DESTINATION, so that no one ever sees half a file
    mkdir -p "$(dirname "$3")"
    install -m "$1" "$2" "$3.new"
    mv -f "$3.new" "$3"
}

keep_former() {
    former=''
    rm -rf "$library/previous.new"
    for file in $files; do
        [ -e "$root/$file" ] || continue
        former=yes
        mkdir -p "$library/previous.new/$(dirname "$file")"
        cp -a "$root/$file" "$library/previous.new/$file"
    done
    if [ -n "$former" ]; then
        rm -rf "$library/previous"
        mv "$library/previous.new" "$library/previous"
    fi
}

put_new() {
    for file in $files; do
        case "$file" in
            etc/sysusers.d/edge.conf) from=edge.sysusers mode=0644 ;;
            */sbin/edge) from=edge mode=0755 ;;
            *) from=$(basename "$file") mode=0644 ;;
        esac
        [ ! -e "$here/$from" ] || put "$mode" "$here/$from" "$root/$file"
    done
}

put_former_back() {
    for file in $files; do
        if [ -e "$library/previous/$file" ]; then
            cp -a "$library/previous/$file" "$root/$file.new"
            mv -f "$root/$file.new" "$root/$file"
        else
            rm -f "$root/$file"
        fi
    done
}

has_bpffs() { grep -qs '^[^ ]* /sys/fs/bpf bpf ' /proc/mounts; }

prepare_system() {
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers ${root:+--root="$root"} /etc/sysusers.d/edge.conf ||
            systemd-sysusers ${root:+--root="$root"} edge.conf
    elif ! grep -qs '^edge:' "$root/etc/group"; then
        groupadd --system ${root:+--root "$root"} edge
    fi
    chgrp "$(sed -n 's/^edge:[^:]*:\([0-9]*\):.*/\1/p' "$root/etc/group")" "$root/etc/edge"
    chmod 0750 "$root/etc/edge"
    [ -z "$offline" ] || return 0
    if ! has_bpffs; then
        put 0644 "$here/sys-fs-bpf.mount" /etc/systemd/system/sys-fs-bpf.mount
        systemctl daemon-reload
        systemctl enable --now sys-fs-bpf.mount
    fi
    /lib/systemd/systemd-sysctl /etc/sysctl.d/60-edge.conf ||
        say "warning: not every setting in /etc/sysctl.d/60-edge.conf could be made"
    systemctl daemon-reload
}

# Starts what is installed now. It counts as started when it says so (Type=notify), and is still
# the same process a moment later.
start() {
    systemctl reset-failed edge.service 2>/dev/null || true
    systemctl restart edge.service || return 1
    process=$(systemctl show -P MainPID edge.service)
    sleep 2
    [ "$(systemctl is-active edge.service)" = active ] &&
        [ "$(systemctl show -P MainPID edge.service)" = "$process" ]
}

# A host that can no longer be reached is worse than an old version.
confirmed() { # SECONDS
    rm -f "$library/confirmed"
    say "running; waiting for a new connection (at most $1 s)"
    left=$(($1 * 5))
    while [ "$left" -gt 0 ]; do
        [ ! -e "$library/confirmed" ] || return 0
        sleep 0.2
        left=$((left - 1))
    done
    return 1
}

# What this host had before, apart from what ran: a daemon may be down, and its rules in force.
look_before() {
    running_before='' enforced_before='' enabled_before=''
    [ -z "$offline" ] || return 0
    case "$(systemctl is-active edge.service)" in
        # Between two tries of a daemon that keeps ending, too.
        active | activating | reloading) running_before=yes ;;
    esac
    for link in /sys/fs/bpf/*/links/*; do
        [ ! -e "$link" ] || enforced_before=yes
    done
    for unit in edge.service edge-load.service; do
        [ "$(systemctl is-enabled "$unit" 2>/dev/null)" != enabled ] ||
            enabled_before="$enabled_before $unit"
    done
}

# Units start at boot as they did before.
enable_as_before() {
    for unit in edge.service edge-load.service; do
        case "$enabled_before " in
            *" $unit "*) systemctl --quiet enable "$unit" || true ;;
            *) systemctl --quiet disable "$unit" || true ;;
        esac
    done
}

# The kernel drops nothing for it. Only for what this run has put in force, or what locks us out.
open_up() {
    systemctl stop edge.service || true
    /usr/local/sbin/edge detach -c "$config" >/dev/null ||
        /usr/local/sbin/edge detach -c "$config" --force || true
}

# The former version with what it had in force: its daemon where one ran, else its rules without.
former_back() {
    if [ -z "$running_before" ]; then systemctl stop edge.service || true; fi
    [ -z "$former" ] || put_former_back
    systemctl daemon-reload
    if [ -n "$running_before" ]; then
        start
        return
    fi
    # Nothing was enforced before, so nothing is now.
    [ -n "$enforced_before" ] || open_up
    systemctl reset-failed edge.service 2>/dev/null || true
    enable_as_before
    [ -z "$enforced_before" ] || /usr/local/sbin/edge load -c "$config" >&2
}

take_back_unreachable() {
    why="nobody could connect with the new version running"
    if [ -z "$running_before$enforced_before" ]; then
        former_back
        fail 5 "$why: it is stopped and its firewall detached; look at [management] in $config"
    fi
    # Longer: the old connection has to find its way back first.
    if former_back && confirmed 60; then
        fail 5 "$why; the former version is back"
    fi
    open_up
    systemctl --quiet disable edge.service edge-load.service || true
    fail 5 "$why, nor with the former: it is back, but stopped and its firewall detached; look at [management] in $config"
}

last_words() {
    echo "the journal's last lines:" >&2
    journalctl --no-pager --quiet -u edge.service --since "@$began" -n 30 -o cat >&2 || true
}

enable_units() {
    if command -v systemctl >/dev/null; then
        systemctl ${root:+--root="$root"} --quiet enable edge-load.service edge.service
    else
        say "warning: no systemctl here: enable edge-load.service and edge.service in $root"
    fi
}

look_before
check
keep_former
put_new
prepare_system

if [ ! -e "$config" ]; then
    say "installed, and not started: there is no $config yet"
    say "next: write it after $config.example, then: systemctl enable --now edge-load edge"
    exit 0
fi
enable_units
if [ -n "$offline" ]; then
    say "installed into ${root:-/}; no service was restarted"
    exit 0
fi

began=$(date +%s)
if start; then
    [ "$seconds" -eq 0 ] || confirmed "$seconds" || take_back_unreachable
    say "installed and running: $(/usr/local/sbin/edge --version)"
    exit 0
fi
last_words
if [ -z "$running_before$enforced_before" ]; then
    former_back
    fail 4 "the new version did not start; nothing ran or was enforced before, so nothing is now"
fi
if ! former_back; then
    fail 3 "the new version did not start; the former version is back, and does not start either: see journalctl -u edge; what the kernel enforced it still does"
fi
if [ -n "$running_before" ]; then
    fail 3 "the new version did not start; the former version is back and running"
fi
fail 3 "the new version did not start; the former version is back: none ran before, and its rules are in force as before"
