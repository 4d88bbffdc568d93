#!/usr/bin/env bash
# The .deb packages as a new user meets them: a bare Debian bookworm (debootstrap's minbase), `apt install` of the package
# and nothing else, then everything that docs/packaging.md promises. By hand, as root; it needs the network for apt:
#   clean_root.sh FOLDER_WITH_THE_DEBS ROOT
# ROOT is made if it does not exist, from where this machine's apt gets bookworm; it is left for a look, and for a second run.
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: clean_root.sh FOLDER_WITH_THE_DEBS ROOT" >&2; exit 2; }
debs=$1 root=$2
ls "$debs"/qconv_*.deb "$debs"/qconv-inspect_*.deb >/dev/null || { echo "clean_root.sh: $debs: no such packages; cpack makes them" >&2; exit 2; }
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

sources() { apt-get indextargets --format "$1" 'Created-By: Packages' 'Component: main' | grep bookworm | sort -u; }
if [ ! -d "$root/usr" ]; then
    mirror=$(sources '$(REPO_URI) $(RELEASE)' | awk '$2 == "bookworm" { print $1; exit }')
    debootstrap --variant=minbase bookworm "$root" "$mirror"
fi
sources 'deb $(REPO_URI) $(RELEASE) main' >"$root/etc/apt/sources.list"
rm -rf "$root/try"
mkdir "$root/try"
cp "$debs"/qconv_*.deb "$debs"/qconv-inspect_*.deb "$root/try"
cp -r "$tests/consumer" "$tests/../examples/link_c" "$root/try"
python3 -c 'import sys; sys.path.insert(0, sys.argv[1]); import package_test; print(package_test.PROGRAM)' "$tests" \
    >"$root/try/program.c"

cat >"$root/try/user.sh" <<'EOF'
set -eu
cd /try
step() { printf '\n== %s\n' "$*"; "$@"; }
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
step apt-get update -qq
step apt-get install -qq -y ./qconv_*.deb >/dev/null
step qconvc --version
step qconvc list targets
step qconvc compile link_c/layer.json --target sse41 -o kernels
for package in qconv qconv-static; do
    step cc -std=c99 program.c $(pkg-config --cflags --libs $package) -o program_$package
    step ./program_$package
done
step c++ -std=c++20 -fsyntax-only -include qconv/qconv.hpp -include qconv/gpu.hpp -x c++ /dev/null
step make -s -C link_c QCONV=/usr TARGET=sse41 run size
for shared in OFF ON; do
    step cmake -S consumer -B build_$shared -DCONSUMER_TARGETS='host;sse41' -DCONSUMER_SHARED=$shared
    step cmake --build build_$shared
    step ./build_$shared/consumer
done
step qconvc verify link_c/layer.json
step qconvc tune link_c/layer.json --target host --budget 20s --records records.jsonl
step qconvc compile link_c/layer.json --target host --tuned records.jsonl -o tuned
step qconvc bench --filter ECG-BNN/block2
step apt-get install -qq -y ./qconv-inspect_*.deb >/dev/null
step qconvc inspect kernels/liblayer_sse41.a
step apt-get remove -qq -y qconv qconv-inspect >/dev/null
if ls -d /usr/lib/qconv /usr/include/qconv /usr/share/qconv 2>/dev/null; then exit 1; fi
printf '\nThe packages work in a clean root.\n'
EOF
# The mounts end with the namespace.
unshare --mount --fork bash -c '
    mount -t proc proc "$1/proc"
    mount -t devpts devpts "$1/dev/pts"
    cp /etc/resolv.conf "$1/etc/resolv.conf"
    exec chroot "$1" sh /try/user.sh' bash "$root"
