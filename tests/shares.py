"""The serial tests in shares that run beside each other, file by file, each about as long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

EACH = 0.015
"""Seconds of a test in a file that is not named."""

SECONDS = {
    "tests/scripts/test_slurm_jobs.py": 130,
    "tests/scripts/test_gpu_proof.py": 110,
    "tests/storage/test_damage.py": 60,
    "tests/scripts/test_paper.py": 110,
    "tests/faults/test_faults.py": 48,
    "tests/scripts/test_slurm.py": 40,
    "tests/examples/test_nonlinear.py": 60,
    "tests/distributed/test_abort.py": 24,
    "tests/cli/test_checkpoint.py": 22,
    "tests/cli/test_solve.py": 20,
    "tests/docs/test_blocks.py": 60,
    "tests/distributed/test_many_ranks.py": 50,
    "tests/precond/amg/test_repartition.py": 32,
    "tests/docs/test_journeys.py": 26,
    "tests/docs/test_site.py": 15,
    "tests/docs/test_notebook.py": 20,
    "tests/cli/test_streams.py": 16,
    "tests/precond/amg/test_problems.py": 12,
    "tests/cli/test_nasty.py": 11,
    "tests/kernels/test_modes.py": 9,
    "tests/cli/test_record.py": 9,
    "tests/examples/test_inverse_conductivity.py": 8,
    "tests/linear/test_hypothesis.py": 7,
    "tests/examples/test_fem_diffusion.py": 7,
    "tests/kernels/test_fused.py": 6,
    "tests/kernels/test_csr.py": 6,
    "tests/cli/test_verify_bench.py": 6,
    "tests/cli/test_files.py": 6,
    "tests/cli/test_grad.py": 6,
    "tests/sparse/test_cuda_by_construction.py": 6,
}
"""Of the serial tests of a file, where they are long: the sums of what ``--durations=0`` says of
``pytest -m "not mpi"``. Only which share a file is put into depends on them."""


def shared(items: Sequence, share: str) -> list:
    """Those of share ``i/n``: each file in one of the n, the longest files first.

    What only waits, as for Slurm, then does so while there is other work beside it.
    """
    which, shares = map(int, share.split("/"))
    counts = Counter(file_of(item) for item in items if not item.get_closest_marker("mpi"))
    seconds = {file: SECONDS.get(file, EACH * count) for file, count in counts.items()}
    load = dict.fromkeys(range(1, shares + 1), 0.0)
    place: dict[str, int] = {}
    for file in sorted(seconds, key=lambda file: (-seconds[file], file)):
        least = min(load, key=lambda share: load[share])
        load[least] += seconds[file]
        if least == which:
            place[file] = len(place)
    mine = [item for item in items if file_of(item) in place]
    return sorted(mine, key=lambda item: place[file_of(item)])


def file_of(item) -> str:
    return item.nodeid.partition("::")[0]
