#!/usr/bin/env bash
# One file of the whole environment, its Python interpreter and this clone's package included, for jobs to unpack on each
# node: ranks by the thousand that load modules from one shared file system wait for each other there.
#
#   scripts/pack_environment.sh                  beside the environment: .venv.squashfs, or .venv.tar.zst, or .tar.gz
#   scripts/pack_environment.sh FILE.squashfs    that file; its suffix says what it is
#
# Then: HPC_SLA_ARCHIVE=$PWD/.venv.squashfs sbatch jobs/solve.sbatch ...   (see jobs/README.md)
# Pack again after each change of the environment or of hpc_sla. HPC_SLA_VENV names the environment, as in setup.sh.
#
# In the file: the environment without pip, C headers and static libraries; the interpreter that it was made with, its
# standard library without tests, and what libraries it has beside itself (not those of /usr: nodes have them).
# Bytecode is compiled in advance, and marked as not to be compared with its source.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() { sed -n '2,13p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; }

case ${1:-} in
-h | --help) usage && exit 0 ;;
-*) usage >&2 && exit 2 ;;
esac
(($# <= 1)) || { usage >&2 && exit 2; }
python=$VENV/bin/python
[[ -x $python ]] || die "no environment in $VENV: run scripts/setup.sh, or set HPC_SLA_VENV"

archive=${1:-}
if [[ -z $archive ]]; then
    archive=$VENV.tar.gz
    if command -v zstd >/dev/null; then archive=$VENV.tar.zst; fi
    if command -v mksquashfs >/dev/null; then archive=$VENV.squashfs; fi
fi
needs() { command -v "$1" >/dev/null || die "$archive takes $1, which is not installed"; }
case $archive in
*.squashfs) needs mksquashfs ;;
*.tar.zst) needs zstd ;;
*.tar.gz) needs gzip ;;
*) die "$archive: the name must end with .squashfs, .tar.zst or .tar.gz" ;;
esac

# Where the interpreter is that the environment was made with, and its standard library.
mapfile -t facts < <("$python" -I -c '
import os, sys, sysconfig
print(os.path.realpath(sys._base_executable), os.path.realpath(sys.base_prefix), sep="\n")
print(os.path.realpath(sysconfig.get_path("stdlib")), f"python{sys.version_info[0]}.{sys.version_info[1]}", sep="\n")
print(os.path.relpath(sysconfig.get_path("purelib"), sys.prefix), sysconfig.get_config_var("EXT_SUFFIX"), sep="\n")')
((${#facts[@]} == 6)) || die "$python does not start"
interpreter=${facts[0]} base=${facts[1]} library=${facts[2]} name=${facts[3]} packages=${facts[4]} suffix=${facts[5]}
[[ $library == "$base"/* ]] || die "the standard library $library is not within $base"

stage=$(mktemp -d "$(dirname "$archive")/.pack-XXXXXX")
trap 'rm -rf "$stage"' EXIT
root=$stage/hpc_sla

# copy FROM TO TAR-OPTION...: a folder without what the options exclude.
copy() {
    mkdir -p "$2"
    tar -C "$1" --exclude='*.a' "${@:3}" -cf - . | tar -C "$2" -xf -
}

SECONDS=0
say "collecting $VENV and the interpreter in $base"
standard=$root/base/${library#"$base"/}
copy "$library" "$standard" --exclude=./site-packages --exclude=./dist-packages --exclude=./test --exclude=./idlelib \
    --exclude=./lib2to3 --exclude=./ensurepip --exclude=./turtledemo --exclude='./config-*'
mkdir -p "$root/base/bin" "$root/base/lib"
cp "$interpreter" "$root/base/bin/$name"
if [[ $base != /usr ]]; then
    # libpython where it is a library, and what a conda environment, say, brings along.
    while read -r file; do
        [[ $file != "$base"/* ]] || cp -L "$file" "$root/base/lib/"
    done < <(ldd "$interpreter" "$library"/lib-dynload/*.so 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u)
fi

# The environment's own; what it links to in the interpreter's folder is made anew.
copy "$VENV" "$root" --exclude="./$packages/pip" --exclude="./$packages/pip-*" --exclude="./$packages/torch/include" \
    --exclude="./$packages/__editable__*hpc_sla*" --exclude="./$packages/hpc_sla" --exclude=./include --exclude=./lib64 \
    --exclude=./bin/python --exclude=./bin/python3 --exclude="./bin/$name" --exclude=./pyvenv.cfg
for link in python python3 "$name"; do ln -s "../base/bin/$name" "$root/bin/$link"; done
[[ ! -L $VENV/lib64 ]] || ln -s lib "$root/lib64"
copy "$ROOT/hpc_sla" "$root/$packages/hpc_sla" --exclude='*.[ch]'
# The compiled loops lie in this clone, or after `pip install .` in the environment alone.
compiled=hpc_sla/kernels/_native$suffix
if [[ ! -e $ROOT/$compiled ]]; then
    if [[ -e $VENV/$packages/$compiled ]]; then
        cp "$VENV/$packages/$compiled" "$root/$packages/$compiled"
    else
        say "no $compiled, here or in $VENV/$packages: what runs from this archive does without the compiled loops, many" \
            "times slower. scripts/setup.sh compiles them, where there is a C compiler."
    fi
fi
# Scripts name their interpreter by its whole path: they find the one beside them from now on.
for file in "$root"/bin/*; do
    if [[ -f $file && ! -L $file ]] && head -c 2 "$file" | grep -q '#!' && head -n 1 "$file" | grep -qF "$VENV/bin/python"; then
        # shellcheck disable=SC2016 # for the shell that starts it
        sed -i '1c#!/bin/sh\n'"'''"'exec'"'"' "$(dirname "$0")/python" "$0" "$@"\n'"'''" "$file"
    fi
done

say "compiling bytecode"
# Bytecode that belongs to its source is kept, under a header by which Python takes it as it is (PEP 552: unchecked, by
# hash). What is missing is compiled; what does not compile is no module but some package's template or test.
"$python" -I - "$root" >"$stage/missing" <<'PY'
import os, sys
from _imp import source_hash
from importlib.util import MAGIC_NUMBER, cache_from_source

raw = int.from_bytes(MAGIC_NUMBER, "little")
for folder, folders, files in os.walk(sys.argv[1]):
    if os.path.basename(folder) == "__pycache__":
        continue
    wanted = {}
    for name in files:
        if name.endswith(".py"):
            path = os.path.join(folder, name)
            wanted[cache_from_source(path)] = path
    cache = os.path.join(folder, "__pycache__")
    for name in os.listdir(cache) if "__pycache__" in folders else ():
        found = os.path.join(cache, name)
        source = wanted.get(found)
        with open(found, "rb") as file:
            code = file.read()
        if source is not None:
            about = os.stat(source)
            times = (int(about.st_mtime) & 0xFFFFFFFF, about.st_size & 0xFFFFFFFF)
            made = MAGIC_NUMBER + bytes(4) + b"".join(n.to_bytes(4, "little") for n in times)
            if code[:16] == made:
                with open(source, "rb") as file:
                    text = file.read()
                with open(found, "wb") as file:
                    file.write(MAGIC_NUMBER + b"\1\0\0\0" + source_hash(raw, text) + code[16:])
                del wanted[found]
                continue
        os.remove(found)
    for source in wanted.values():
        print(source)
PY
"$python" -I -m compileall -qq -f -j 0 --invalidation-mode unchecked-hash -i "$stage/missing" >/dev/null || true
rm "$stage/missing"

say "writing $archive"
case $archive in
*.squashfs)
    options=()
    # Higher levels take minutes for a tenth of the size.
    if mksquashfs -help 2>&1 | grep -qw zstd; then options=(-comp zstd -Xcompression-level 3); fi
    mksquashfs "$stage" "$archive.part" "${options[@]}" -noappend -all-root -no-xattrs -no-progress -quiet >/dev/null
    ;;
*.tar.zst) tar -C "$stage" --owner=0 --group=0 -cf - hpc_sla | zstd -q -3 -T0 -f -o "$archive.part" ;;
*.tar.gz) tar -C "$stage" --owner=0 --group=0 -cf - hpc_sla | gzip -c >"$archive.part" ;;
esac
# The digest first: an archive without one would not be unpacked.
sha256sum <"$archive.part" | cut -d' ' -f1 >"$archive.sha256"
mv "$archive.part" "$archive"
say "$archive: $(du -h "$archive" | cut -f1) of $(du -sh "$root" | cut -f1), $(find "$root" -type f | wc -l) files, in $SECONDS s"
