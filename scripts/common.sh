# shellcheck shell=bash disable=SC2034
# Sourced by the other scripts: where things are, and how they talk.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=${HPC_SLA_VENV:-$ROOT/.venv}
[[ $VENV == /* ]] || VENV=$PWD/$VENV
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/hpc_sla
MPI=${HPC_SLA_MPI:-mpich}
export HPC_SLA_VENV=$VENV

say() { printf '%s\n' "$*" >&2; }

die() {
    say "${0##*/}: $*"
    exit 1
}

# Show a command as a person would type it, then run it.
run() {
    printf '\n$'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

digest() { sha256sum | cut -c1-16; }

# apt_install PACKAGE...: where this is Debian and we may; otherwise say what to install.
apt_install() {
    local as_root=()
    if ! command -v apt-get >/dev/null; then
        die "these are needed, please install your system's equivalents: $*"
    fi
    if [[ $(id -u) != 0 ]]; then
        sudo -n true 2>/dev/null || die "these are needed, please run: sudo apt-get install -y $*"
        as_root=(sudo -n)
    fi
    say "installing Debian packages: $*"
    local log
    log=$(mktemp)
    # A fresh machine has no package lists, an old one lists that no longer match the archive.
    "${as_root[@]}" apt-get update >"$log" 2>&1 || say "apt-get update failed; trying with the lists there are"
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "apt-get could not install: $*"
    fi
    rm -f "$log"
}

# What building from source takes: a C compiler, make, and the headers of the environment's Python.
need_compiler() {
    local header packages=(gcc g++ make)
    header=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    command -v gcc >/dev/null && command -v g++ >/dev/null && command -v make >/dev/null && [[ -e $header ]] && return
    [[ -e $header ]] || packages+=(libc6-dev python3-dev)
    apt_install "${packages[@]}"
}

# The environment's programs first, and one thread a rank: the ranks are the parallelism.
use_environment() {
    export PATH=$VENV/bin:$PATH
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    unset PYTHONHOME
}
