"""What happens to a program, as its user sees it: run as one, under a launcher."""

from __future__ import annotations

import builtins
import sys
import textwrap
from contextlib import suppress

import pytest

from hpc_sla.distributed import leaving
from tests.launch import launch_python

HEADER = """\
import sys, time
import hpc_sla.distributed.leaving
hpc_sla.distributed.leaving.PATIENCE_SECONDS = {}
import hpc_sla as hs, torch
world = hs.World(device='cpu', transport={!r})
"""


def _run(body, folder, transport="mpi", ranks=3, patience=1.0):
    program = HEADER.format(patience, transport) + textwrap.dedent(body)
    return launch_python(ranks, "-c", program, timeout=200, cwd=folder)


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["", "late"])
@pytest.mark.parametrize("transport", ["mpi", "gloo"])
def test_an_exception_on_one_rank_ends_the_job_with_its_traceback(tmp_path, transport, hook):
    """Where a hook that holds back what ours prints is hung over it, too."""
    done = _run(
        f"""
        import io
        before = sys.excepthook
        def late(*error):
            kept, sys.stderr = sys.stderr, io.StringIO()
            before(*error)
            time.sleep(5)  # by then MPI has ended the process
            kept.write(sys.stderr.getvalue())
        if {hook == "late"}:
            sys.excepthook = late
        if world.rank == 1:
            raise KeyError("only here")
        world.barrier()
        """,
        tmp_path,
        transport,
    )
    assert done.returncode != 0
    assert "rank 1" in done.stderr and "KeyError: 'only here'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("leave", "code"),
    [("sys.exit(4)", 4), ("leave()", 1)],
)
def test_sys_exit_on_one_rank_ends_the_job(tmp_path, leave, code):
    done = _run(
        f"""
        def leave():
            raise SystemExit('no such thing')
        if world.rank == 1:
            {leave}
        world.barrier()
        """,
        tmp_path,
        ranks=2,
    )
    assert done.returncode == code
    assert "rank 1 has left with an error" in done.stderr
    assert code == 4 or "no such thing" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("leave", "code"), [("sys.exit(3)", 3), ("raise SystemExit(main())", 0)])
def test_ranks_that_leave_by_themselves_may_take_their_time(tmp_path, leave, code):
    """With an error within the patience, without one as long as they like."""
    done = _run(
        f"""
        def main():
            return 0
        try:
            sys.exit(5)
        except SystemExit:
            pass  # is none
        if world.rank == 0 and {code == 0}:
            time.sleep(2.5)
            print("done")
        {leave}
        """,
        tmp_path,
        ranks=2,
        patience=1.0 if code == 0 else 150.0,  # however busy the machine is
    )
    assert done.returncode == code
    assert "left with an error" not in done.stderr
    assert done.stdout == ("done\n" if code == 0 else "")


@pytest.mark.slow
@pytest.mark.parametrize("error", ["RuntimeError", "torch.OutOfMemoryError"])
def test_an_error_of_one_rank_within_newton_ends_the_job(tmp_path, error):
    """Others wait in the halo exchange of a product that this rank does not come to."""
    done = _run(
        f"""
        from hpc_sla import problems
        A = problems.distribute(problems.make("poisson2d:n=6"), world)
        calls = []
        def residual(u):
            calls.append(1)
            if world.rank == 1 and len(calls) == 3:
                raise {error}("only here")
            return A @ u + u**3 - 1
        u0 = torch.zeros(A.layout.n_owned, dtype=torch.float64)
        hs.nonlinear_solve(residual, u0, layout=A.layout)
        """,
        tmp_path,
        ranks=2,
    )
    assert done.returncode == 1
    assert "only here" in done.stderr and "rank 1" in done.stderr


LEAVING = {
    "x = 1": 0,
    "raise SystemExit": 0,
    "raise SystemExit()": 0,
    "raise SystemExit(0)": 0,
    "raise SystemExit(None)": 0,
    "raise SystemExit(main())": 0,
    "raise SystemExit(3)": 3,
    "code = 3\nraise SystemExit(code)": 3,
    "raise SystemExit('no such thing')": 1,
    "raise SystemExit(*[1])": 1,
    "def leave():\n    raise SystemExit(2)\nleave()": 1,
    "sys.exit()": 0,
    "sys.exit(256 + 7)": 7,
    "exit()": 0,
    "quit(4)": 4,
    "try:\n    sys.exit(5)\nexcept SystemExit:\n    pass": 0,
    "try:\n    sys.exit(5)\nexcept SystemExit:\n    pass\nraise SystemExit(main())": 0,
    "try:\n    sys.exit(5)\nexcept SystemExit:\n    raise": 5,
    "try:\n    sys.exit(5)\nfinally:\n    x = 1": 5,
}


@pytest.mark.slow
@pytest.mark.parametrize("program", LEAVING)
def test_which_exit_code_a_program_ends_with(program, monkeypatch):
    """In one process, as the end of the interpreter finds it."""
    frames = []
    for name in ("exit", "quit"):
        monkeypatch.setattr(builtins, name, lambda status=None: _leave(status))
    monkeypatch.setattr(sys, "exit", sys.exit)
    monkeypatch.setattr(leaving, "_status", [])
    leaving._note_exits()
    names = {"main": lambda: 0, "note": lambda: frames.append(sys._getframe(1)), "sys": sys}
    with suppress(SystemExit):
        exec(compile(f"note()\n{program}\n", "program", "exec"), names)
    monkeypatch.setattr(leaving, "_main", frames[0])
    assert leaving._exit_code() == LEAVING[program]


def _leave(status):
    raise SystemExit(status)


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["mpi", "gloo"], ids=["mpi4py", "torch.distributed"])
def test_a_program_that_just_ends_ends_cleanly(tmp_path, transport, monkeypatch):
    """With persistent requests and a process group still alive at exit."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
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
    assert not list(tmp_path.glob("hpc_sla-*")), "where torch.distributed met"


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["torch.distributed", "the user"])
def test_a_world_of_fewer_ranks_behind_another_s_hook_for_errors(tmp_path, hook):
    """As multigrid's small levels are, when torch.distributed has hung its hook over ours."""
    done = _run(
        f"""
        if {hook == "the user"}:
            sys.excepthook = lambda kind, error, trace: print("mine", flush=True)
        mine = world.comm.Split(int(world.rank > 0), world.rank)
        if world.rank == 0:
            few = hs.World(mine, device="cpu")
        """,
        tmp_path,
        "gloo" if hook == "torch.distributed" else "mpi",
    )
    assert (done.returncode, done.stderr) == (0, "")
