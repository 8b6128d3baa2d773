#!/bin/bash
# A job for run-guest.sh: the kernel's own NBD client makes a file system on an export, fills it,
# checks it, mounts it again and compares. Arguments: EXPORT CONNECTIONS PORT KIND
set -euo pipefail
export_name=$1 connections=$2 port=$3 kind=$4

nbd-client -name "$export_name" -connections "$connections" -block-size 4096 \
    "$SERVER_ADDRESS" "$port" /dev/nbd0
cd /sys/block/nbd0/queue
[ "$(cat write_cache)" = "write back" ] && [ "$(cat fua)" = 1 ]
cd /
mkdir -p /mnt/disk
case $kind in
    ext4) mkfs.ext4 -q /dev/nbd0 ;;
    xfs) mkfs.xfs -q -f /dev/nbd0 ;;
    btrfs) mkfs.btrfs -q -f /dev/nbd0 ;;
esac
mount /dev/nbd0 /mnt/disk
cp -r /usr/include/c++ /mnt/disk/
dd if=/dev/urandom of=/mnt/disk/data bs=1M count=64 conv=fsync status=none
(cd /mnt/disk && find . -type f -print0 | sort -z | xargs -0 sha256sum) >/run/sums
umount /mnt/disk
case $kind in
    ext4) e2fsck -f -n /dev/nbd0 >/dev/null 2>&1 ;;
    xfs) xfs_repair -n /dev/nbd0 >/dev/null 2>&1 ;;
    btrfs) btrfs check --readonly /dev/nbd0 >/dev/null 2>&1 ;;
esac
mount /dev/nbd0 /mnt/disk
(cd /mnt/disk && sha256sum --quiet -c /run/sums)
rm -r /mnt/disk/c++
fstrim /mnt/disk
umount /mnt/disk
nbd-client -d /dev/nbd0
echo "$kind over $connections connections: same after unmount and mount"
