#!/usr/bin/env bash
# Build the Python environment, or bring it up to date. Done in a moment when nothing changed.
#
#   scripts/setup.sh                    what solving needs: no compiler, no PETSc
#   scripts/setup.sh --test             and the test tools, and PETSc (built from source once: 10 minutes on 2 cores)
#   scripts/setup.sh --extras eigen,plot   further extras, any of those in pyproject.toml
#
# Environment variables:
#   HPC_SLA_VENV         where the environment goes (default: .venv beside pyproject.toml)
#   HPC_SLA_MPI          mpich: the MPICH that comes as a Python wheel (default)
#                        system: your site's MPI; mpi4py is then built with the mpicc found in PATH
#   HPC_SLA_PYTHON       the Python to build it with, 3.10 or newer (default: python3)
#   HPC_SLA_TORCH_INDEX  an extra package index for torch; empty for none. By default PyTorch's CPU index,
#                        where no NVIDIA GPU is visible and your pip would otherwise fetch the CUDA build
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() { sed -n '2,14p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; }

extras=()
while (($#)); do
    case $1 in
    --test) extras+=(test petsc) ;;
    --extras)
        IFS=, read -r -a more <<<"${2:?--extras wants a list such as eigen,plot}"
        extras+=("${more[@]}")
        shift
        ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done
# The names in pyproject.toml's table of extras.
known=" " table=
while IFS= read -r line; do
    if [[ $line =~ ^\[([^]]*)\]$ ]]; then
        table=${BASH_REMATCH[1]}
    elif [[ $table == project.optional-dependencies && $line =~ ^([a-z0-9_-]+)\ *= ]]; then
        known+="${BASH_REMATCH[1]} "
    fi
done <"$ROOT/pyproject.toml"
for extra in "${extras[@]}"; do
    [[ $known == *" $extra "* ]] || die "no extra called '$extra':$known"
done
[[ $MPI == mpich || $MPI == system ]] || die "HPC_SLA_MPI is '$MPI'; it can be mpich or system"
[[ $MPI == mpich ]] || command -v mpicc >/dev/null ||
    die "HPC_SLA_MPI=system, but there is no mpicc in PATH: load your site's MPI module first"

stamps=$VENV/.hpc_sla
python=$VENV/bin/python
pip() { "$python" -m pip --disable-pip-version-check --no-input "$@"; }
# Quiet, yet with errors: pip's warnings are about this machine's configuration, not about us.
# --no-compile: compiling what is never imported takes as long as fetching it.
pip_install() { pip install -qq --no-compile -c "$ROOT/constraints.txt" "$@"; }

# What the environment was built from. A change rebuilds nothing by itself: it has pip look again.
mpi_identity() {
    if [[ $MPI == system ]]; then mpicc -show 2>/dev/null; else echo embedded; fi
}
pins=$(
    cat "$ROOT"/{pyproject.toml,constraints.txt,scripts/setup.sh}
    echo "torch index: ${HPC_SLA_TORCH_INDEX-default}"
)
pins=$(digest <<<"$pins")
# A change of these cannot be patched up: the environment is made anew.
foundation=$(printf '%s\n' "$VENV" "$MPI" "$(mpi_identity)" "${HPC_SLA_PYTHON:-}" | digest)

stamped() { [[ -e $stamps/$1 && $(<"$stamps/$1") == "$2" ]]; }
stamp() { printf '%s\n' "$2" >"$stamps/$1"; }
foundation_stands() { stamped foundation "$foundation" && "$python" -c '' 2>/dev/null; }
# This clone, its C sources, and whether they were compiled: another clone in the same place was not.
tree() {
    { printf '%s\n' "$ROOT" && cat "$ROOT"/hpc_sla/kernels/*.[ch] && cd "$ROOT"/hpc_sla/kernels && printf '%s\n' _native*.so; } | digest
}

everything_stands() {
    foundation_stands && stamped base "$pins" && stamped root "$(tree)" || return 1
    for extra in "${extras[@]}"; do stamped "$extra" "$pins" || return 1; done
}

find_python() {
    local candidate
    for candidate in ${HPC_SLA_PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    return 1
}

make_environment() {
    local base_python
    if ! base_python=$(find_python); then
        [[ -z ${HPC_SLA_PYTHON:-} ]] || die "HPC_SLA_PYTHON=$HPC_SLA_PYTHON is not a Python 3.10 or newer with venv and pip"
        apt_install python3 python3-venv
        base_python=$(find_python) || die "needs Python 3.10 or newer, with its venv module"
    fi
    say "making the environment in $VENV with $("$base_python" --version)"
    "$base_python" -m venv --clear "$VENV"
    mkdir -p "$stamps"
    # Our options assume a recent pip; Debian's own may be years old.
    pip_install --upgrade pip setuptools
    stamp foundation "$foundation"
}

gpu_visible() { [[ -e /dev/nvidiactl ]] || { command -v nvidia-smi && nvidia-smi -L; } >/dev/null 2>&1; }

# PyPI's torch for Linux is the CUDA build: gigabytes that a machine without a GPU has no use for.
# Prints the pip options that get the CPU build, where that takes any.
torch_options() {
    local index version
    if [[ -n ${HPC_SLA_TORCH_INDEX+set} ]]; then
        [[ -z $HPC_SLA_TORCH_INDEX ]] || printf '%s\n' --extra-index-url "$HPC_SLA_TORCH_INDEX"
        return
    fi
    [[ $(uname -s) == Linux ]] && ! gpu_visible || return 0
    version=$(pip install -qq -c "$ROOT/constraints.txt" --dry-run --no-deps --report - torch 2>/dev/null |
        "$python" -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["metadata"]["version"])' 2>/dev/null) ||
        return 0 # it is there already
    [[ $version != *+cpu* ]] || return 0
    index=https://download.pytorch.org/whl/cpu
    if "$python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "$index/torch/" 2>/dev/null; then
        printf '%s\n' --extra-index-url "$index"
    else
        say "PyTorch's CPU index cannot be reached from here, so pip fetches the CUDA build of torch, about 3 GB."
        say "HPC_SLA_TORCH_INDEX or PIP_EXTRA_INDEX_URL can name a mirror that has the CPU build."
    fi
}

install_base() {
    local options=() packages=()
    if [[ $MPI == system ]]; then
        # From source, and past pip's cache: that would hand out a wheel built with some other MPI.
        need_compiler
        say "building mpi4py with $(command -v mpicc): a few minutes"
        # One huge C file of thin wrappers, which at -O3 takes gcc several times as long.
        CFLAGS="-O1 -g0 ${CFLAGS:-}" pip_install --no-cache-dir --no-binary mpi4py mpi4py
    else
        packages+=(mpich)
    fi
    mapfile -t options < <(torch_options)
    say "installing packages (about 250 MB to fetch without CUDA)"
    pip_install --no-build-isolation "${options[@]}" "${packages[@]}" -e "$ROOT$1"
    # Shows that the pieces fit, and compiles them once, before a rank each would do it at the same time.
    "$python" -c 'import h5py, mpi4py.MPI, pymetis, rich, scipy.sparse.linalg, torch' ||
        die "the packages were installed but do not load, see above"
    stamp root "$(tree)"
    stamp base "$pins"
}

install_everything() {
    local extra from_pip=()
    foundation_stands || make_environment
    for extra in "${extras[@]}"; do
        [[ $extra == petsc ]] || from_pip+=("$extra")
    done
    if stamped base "$pins" && ((${#from_pip[@]} == 0)); then
        # Only the clone may have moved, or its C sources: point the environment at this one.
        stamped root "$(tree)" || pip_install --no-build-isolation --no-deps -e "$ROOT"
        stamp root "$(tree)"
    else
        install_base "$(IFS=, && printf '%s' "${from_pip[*]:+[${from_pip[*]}]}")"
        for extra in "${from_pip[@]}"; do stamp "$extra" "$pins"; done
    fi
    if [[ " ${extras[*]} " == *" petsc "* ]] && ! stamped petsc "$pins"; then
        "$ROOT/scripts/petsc.sh"
        stamp petsc "$pins"
    fi
}

if everything_stands; then
    say "environment up to date: $VENV"
    exit 0
fi
# Two set-ups of one environment at a time would trip over each other.
mkdir -p "$(dirname "$VENV")"
if command -v flock >/dev/null; then
    exec 9>"$VENV.lock"
    flock 9
fi
SECONDS=0
install_everything
say "environment ready in $SECONDS s: $VENV"
