#!/usr/bin/env bash
# Unpack an archive of scripts/pack_environment.sh on this node:
#
#   jobs/unpack.sh ARCHIVE FOLDER DIGEST    into FOLDER, which is new or has it already; DIGEST is ARCHIVE.sha256's
#   jobs/unpack.sh --remove FOLDER          and what belongs to it
#
# environment.sh runs it once a node. Of several at a time on one node one unpacks, and the others wait for it.
set -euo pipefail

fail() {
    echo "$(hostname): $*" >&2
    exit 1
}

# FOLDER may lie where everybody can write, /tmp say: nothing is run from what another user can have put there.
ours() { [[ ! -L $1 && -O $1 ]]; }

if [[ ${1:-} == --remove ]]; then
    folder=${2:?which folder?}
    rm -rf "$folder" "$folder".part "$folder".archive.* "$folder".lock
    exit
fi
archive=${1:?which archive?} folder=${2:?into which folder?} digest=${3:?which digest?}

# What was sent to this node has served; the common one stays.
leave() {
    case $archive in "$folder".archive.*) rm -f "$archive" ;; esac
    exit 0
}

# Nobody else may write where the job's programs come from.
umask 077
# Appended to, and no link: another user's would have some file of ours emptied.
[[ ! -L $folder.lock ]] || fail "$folder.lock is a symbolic link: remove it"
exec 9>>"$folder.lock" || fail "$(dirname "$folder") cannot be written"
ours "$folder.lock" || fail "$folder.lock belongs to another user"
flock 9
if ours "$folder" && [[ -e $folder/.unpacked && $(<"$folder/.unpacked") == "$digest" ]]; then
    leave
fi
[[ -r $archive ]] || fail "$archive is not there"
case $archive in "$folder".archive.*) ours "$archive" || fail "$archive belongs to another user" ;; esac
[[ $(sha256sum <"$archive" | cut -d' ' -f1) == "$digest" ]] ||
    fail "$archive is broken: its bytes are not those that were packed"
rm -rf "$folder" "$folder.part" && mkdir "$folder.part" && ours "$folder.part" ||
    fail "$folder is in the way, or $folder.part: remove them"
case $archive in
*.squashfs) unsquashfs -quiet -no-progress -no-xattrs -force -dest "$folder.part" "$archive" >/dev/null ;;
*.tar.zst) zstd -qdc "$archive" | tar -C "$folder.part" -xf - ;;
*.tar.gz) gzip -dc "$archive" | tar -C "$folder.part" -xf - ;;
*) fail "$archive: neither .squashfs nor .tar.zst nor .tar.gz" ;;
esac || fail "$archive cannot be unpacked into $(dirname "$folder"): is there room, and the program for it?"
# An environment names its interpreter by its whole path, which is known only now.
if [[ -d $folder.part/hpc_sla/base ]]; then
    printf 'home = %s/base/bin\ninclude-system-site-packages = false\n' "$folder" >"$folder.part/hpc_sla/pyvenv.cfg"
fi
chmod go-rwx "$folder.part/hpc_sla" || fail "$archive has no folder hpc_sla"
# Not into a folder that has come into being meanwhile.
mv -T "$folder.part/hpc_sla" "$folder" && ours "$folder" || fail "$folder is in the way: remove it"
rmdir "$folder.part"
"$folder/bin/python" -c '' || fail "the Python of $archive does not start here"
printf '%s\n' "$digest" >"$folder/.unpacked"
echo "$(hostname): unpacked into $folder"
leave
