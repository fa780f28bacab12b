#!/usr/bin/env bash
# A Debian root filesystem, made by debootstrap, as lower layer: apt-get install, reinstall and purge of packages by
# chroot into the view, setuid and file capabilities kept, and the lower layer untouched.
# Needs the network: packages come from the mirror that debootstrap and this machine's apt use.
# shellcheck source=test/integration/lib.sh
source "$(dirname "$0")/lib.sh"

# In memory: dpkg syncs after every package, and this is to test the view, not the disk.
lower=$scratch/lower
mkdir "$lower"
mount -t tmpfs -o size=1g,mode=755 lamina-rootfs "$lower"
# shellcheck source=/dev/null
suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-stable}" || echo stable)
check "debootstrap of $suite" debootstrap --variant=minbase "$suite" "$lower"
[ "$failed" -eq 0 ] || exit 1
cp /etc/resolv.conf "$lower/etc/resolv.conf"
# As this machine reaches its mirror, if it does so by a proxy.
if proxy=$(apt-config dump Acquire::http::Proxy) && [ -n "$proxy" ]; then
  echo "$proxy" >"$lower/etc/apt/apt.conf.d/90proxy"
fi
printf '#!/bin/sh\nexit 101\n' >"$lower/usr/sbin/policy-rc.d"
chmod 755 "$lower/usr/sbin/policy-rc.d"
listing "$lower" >"$scratch/lower.before"

overlay a "$lower" dev # debootstrap makes the devices of a chroot
root=$scratch/a/merged
mount -t proc proc "$root/proc"
mounts+=("$root/proc")
inside() {
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
    chroot "$root" "$@"
}
apt_get() { inside apt-get -qq -o Dpkg::Use-Pty=0 "$@"; }

check 'a shell runs in it' equal "$(inside sh -c 'echo 6 7 | wc -w')" 2
check 'dpkg knows its packages' inside dpkg -s coreutils
check 'apt-get update' apt_get update
check 'apt-get install of a package with a library and file capabilities' \
  apt_get install --no-install-recommends -y iputils-ping hello
check 'it runs' equal "$(inside hello)" 'Hello, world!'
check 'its capability is there' inside sh -c 'getcap /usr/bin/ping | grep -q cap_net_raw'
check 'and is an xattr of the upper file' getfattr -n security.capability "$scratch/a/upper/usr/bin/ping"
check 'ldconfig and the cache work' inside sh -c 'ldconfig && ldd /usr/bin/ping'
check 'apt-get --reinstall over files of the lower layer' apt_get install --reinstall -y bash
check 'dpkg --verify finds nothing' inside dpkg --verify bash hello iputils-ping
check 'dpkg --audit finds nothing' equal "$(inside dpkg --audit)" ''
check 'setuid of the lower layer holds' equal "$(inside stat -c '%a %U' /usr/bin/su)" '4755 root'
check 'a user can be added' inside useradd -m -s /bin/sh somebody
check 'who may not write to what is not theirs' inside su somebody -c '! touch /etc/passwd && ! (: >>/etc/shadow)'
check 'but at home' inside su somebody -c 'echo mine >~/file && cat ~/file'
check 'the sticky bit of /tmp holds' inside sh -c 'touch /tmp/of-root; su somebody -c "! rm -f /tmp/of-root" 2>/dev/null'
check 'apt-get purge of the package' apt_get purge -y hello
check 'it is gone' fails inside sh -c 'command -v hello'
check 'apt-get purge of a package of the lower layer' apt_get purge -y --allow-remove-essential tzdata
check 'its files are gone from the view' fails test -e "$root/usr/share/zoneinfo/Europe/Paris"
check 'and are there below' test -e "$lower/usr/share/zoneinfo/Europe/Paris"
check 'locks: two dpkg at once, of which one has to wait' inside sh -c '
  exec 9>/var/lib/dpkg/lock; flock -n 9 && ! flock -n /var/lib/dpkg/lock true'
umount "$root/proc"
check 'mounting it again works' remount a "$lower" dev
check 'ping is there, with its capability' inside sh -c 'getcap /usr/bin/ping | grep -q cap_net_raw'
check 'dpkg finds nothing after it' equal "$(inside dpkg --audit)$(inside dpkg --verify bash)" ''
check 'the lower layer is untouched' diff "$scratch/lower.before" <(listing "$lower")

# What was made here is an ordinary upperdir: the kernel shows the same.
listing "$root" loose >"$scratch/ours"
unmount a
check "the kernel's overlayfs mounts the same directories" mount -t overlay kernel \
  -o "lowerdir=$lower,upperdir=$scratch/a/upper,workdir=$scratch/a/work" "$root"
mounts+=("$root")
check 'and shows the same tree' diff "$scratch/ours" <(listing "$root" loose)
umount "$root"
mounts+=("$lower")
finish
