#!/bin/bash
# Proves the README's commands where nothing is installed but git: a minimal Debian 12 root made with
# debootstrap. Run by hand, as root: scripts/prove-debootstrap.sh DIRECTORY [quick|system|all]
#
# Clones the committed tree into the new root, runs scripts/serve there until it prints "ready", then
# scripts/test. The directory is left for a look; remove it afterwards.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
root=$(cd "$1" && pwd)/root
what=${2:-quick}

[ -x "$root/usr/bin/git" ] || debootstrap --variant=minbase --include=git,ca-certificates bookworm "$root"
# The network as on the host: its sources, proxies and certificates.
cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
rm -f "$root/etc/apt/sources.list"
cp /etc/apt/sources.list "$root/etc/apt/" 2>/dev/null || true
cp -r /etc/apt/sources.list.d /etc/apt/apt.conf.d /etc/apt/auth.conf.d "$root/etc/apt/" 2>/dev/null || true
cp -r /usr/local/share/ca-certificates "$root/usr/local/share/" 2>/dev/null || true
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || true

mounted=()
finish() {
    for at in "${mounted[@]}"; do umount -l "$at" || true; done
}
trap finish EXIT
bind() { mkdir -p "$root$1"; mount --bind "$1" "$root$1"; mounted=("$root$1" "${mounted[@]}"); }
mount -t proc proc "$root/proc"; mounted=("$root/proc" "${mounted[@]}")
bind /sys
bind /dev
mount -t devpts devpts "$root/dev/pts" 2>/dev/null && mounted=("$root/dev/pts" "${mounted[@]}")

rm -rf "$root/work"
git clone -q "$here" "$root/work/zerofs"
inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root ${http_proxy:+http_proxy=$http_proxy} ${https_proxy:+https_proxy=$https_proxy} "$@"; }

echo "== scripts/serve"
begin=$SECONDS
inside bash -c 'cd /work/zerofs && exec scripts/serve' >"$root/serve.log" 2>&1 &
server=$!
until grep -q '^ready$' "$root/serve.log"; do
    kill -0 "$server" 2>/dev/null || { tail -20 "$root/serve.log"; exit 1; }
    sleep 1
done
echo "ready after $((SECONDS - begin)) s"
grep -A1 '^volume' "$root/serve.log"
# The server is the process that runs the program from the new root.
pid=$(pgrep -f 'build/serve/tools/zerofs serve --store file:///work/zerofs/zerofs-data' | tail -1)
kill "$pid"
wait "$server"

echo "== scripts/test $what"
inside bash -c "cd /work/zerofs && scripts/test $what"
