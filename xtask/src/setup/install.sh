# Installs the Debian packages named as arguments. No service of theirs starts: not now, by a
# policy-rc.d that is put back to what it was, and not at the next boot, because the services of
# packages that are new on this machine are disabled. Other packages' services are not touched.
set -eu
policy=/usr/sbin/policy-rc.d
kept=/usr/sbin/policy-rc.d.kept-by-edge-setup
mark='# temporary, made by cargo xtask setup'

put_back() {
    if [ -e "$kept" ] || [ -L "$kept" ]; then
        mv -f "$kept" "$policy"
    elif grep -qsxF "$mark" "$policy"; then
        rm -f "$policy"
    fi
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = 'ii ' ]
}

# Not in /run/lock, where anybody may put a link or hold the lock.
exec 9>/run/edge-setup.lock
flock -w 600 9 || { echo 'another set-up is still running' >&2; exit 1; }
trap put_back EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

put_back # what a set-up that was killed has left
if [ -e "$policy" ] || [ -L "$policy" ]; then
    mv -f "$policy" "$kept"
fi
printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
chmod 755 "$policy"

new=''
for package in "$@"; do
    installed "$package" || new="$new $package"
done

export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C
apt-get install -y --no-install-recommends \
    -o DPkg::Lock::Timeout=300 \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    "$@" </dev/null

for package in $new; do
    case "$package" in systemd) continue ;; esac
    units=$(dpkg -L "$package" |
        sed -n -E 's,^(/usr)?/lib/systemd/system/([^/@]+\.(service|socket))$,\2,p')
    for unit in $units; do
        if command -v systemctl >/dev/null; then
            systemctl --no-reload --quiet disable "$unit" >/dev/null 2>&1 || true
        else
            deb-systemd-helper disable "$unit" >/dev/null 2>&1 || true
        fi
    done
    for script in $(dpkg -L "$package" | sed -n -E 's,^/etc/init\.d/([^/]+)$,\1,p'); do
        update-rc.d "$script" disable >/dev/null 2>&1 || true
    done
    [ -z "$units" ] || echo "left disabled: $(echo $units)"
done
