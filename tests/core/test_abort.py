"""What happens to a program, as its user sees it: run as one, under a launcher."""

from __future__ import annotations

import textwrap

import pytest

from tests.launch import launch_python

HEADER = "import hpc_sla as hs, torch\nworld = hs.World(device='cpu', transport={!r})\n"


def _run(body, folder, transport="mpi"):
    program = HEADER.format(transport) + textwrap.dedent(body)
    return launch_python(3, "-c", program, timeout=60, cwd=folder)


def test_an_exception_on_one_rank_ends_the_job_with_its_traceback(tmp_path):
    done = _run(
        """
        if world.rank == 1:
            raise KeyError("only here")
        world.barrier()
        """,
        tmp_path,
    )
    assert done.returncode != 0
    assert "rank 1" in done.stderr and "KeyError: 'only here'" in done.stderr


@pytest.mark.parametrize("transport", ["mpi", "gloo"], ids=["mpi4py", "torch.distributed"])
def test_a_program_that_just_ends_ends_cleanly(tmp_path, transport):
    """With persistent requests and a process group still alive at exit."""
    done = _run(
        """
        import scipy.sparse as sp
        A = hs.DSparseMatrix.from_scipy(
            sp.csr_matrix([[2.0, 1.0], [1.0, 2.0]]) if world.rank == 0 else None, world)
        x, info = hs.solve(A, torch.ones(A.layout.n_owned, dtype=torch.float64))
        if world.rank == 0:
            print(info.status)
        """,
        tmp_path,
        transport,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["converged"])
    assert "warn" not in done.stderr.lower() and "error" not in done.stderr.lower(), done.stderr
