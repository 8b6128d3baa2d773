#!/bin/bash
# Installs what building needs ("build"), or what the tests need as well ("test"), from Debian 12
# packages. Asks nothing of the network when everything is there.
set -euo pipefail

build=(clang-19 lld-19 libclang-rt-19-dev meson ninja-build ccache pkg-config
    liburing-dev libsodium-dev libssl-dev libzstd-dev libxxhash-dev libfmt-dev libspdlog-dev
    libcli11-dev libtomlplusplus-dev nlohmann-json3-dev libcurl4-openssl-dev libpugixml-dev
    prometheus-cpp-dev)
tests=(doctest-dev libbenchmark-dev llvm-19 python3 python3-libnbd libnbd-bin fuse3 nbdkit
    qemu-utils fio e2fsprogs xfsprogs btrfs-progs user-mode-linux iproute2 kmod nbd-client gcc
    libc6-dev procps util-linux ceph-mon ceph-osd radosgw curl faketime)

case ${1:-build} in
    build) wanted=("${build[@]}") ;;
    test) wanted=("${build[@]}" "${tests[@]}") ;;
    *) echo "usage: $0 [build|test]" >&2; exit 2 ;;
esac

missing=()
for package in "${wanted[@]}"; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
as_root apt-get -qq update
as_root apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
