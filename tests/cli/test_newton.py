"""`newton` end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpc_sla.storage.result_file import read_result
from tests.cli.cases import run_cases


def test_results_on_two_ranks(tmp_path: Path) -> None:
    bratu = "bratu2d:n=12,lambda=5,manufactured=true"
    done = run_cases(
        2,
        {
            "one": ["newton", bratu, "--json", "-o", "a.h5"],
            "two": ["newton", bratu, "--method", "anderson", "-o", "b.h5"],
            "limit": ["newton", "reaction2d:n=6", "--json", "--max-iterations", "1"],
            "misspelt": ["newton", "bratu2d:lam=3"],
            "exact": ["newton", "diffusion2d:n=6", "--jacobian", "exact"],
            "list": ["newton", "--problems"],
        },
        tmp_path,
    )
    done = list(done.values())
    assert [one.codes[0] for one in done] == [0, 0, 3, 2, 2, 0]
    told = done[0].json
    assert told["status"] == "converged" and told["rows"] == 144 and told["ranks"] == 2
    assert told["relative_residual"] <= 1e-8 and 0 < told["error"] < 0.05
    a, b = (read_result(tmp_path / name) for name in ("a.h5", "b.h5"))
    x = np.arange(1, 13) / 13
    exact = np.outer(np.sin(np.pi * x), np.sin(2 * np.pi * x)).ravel()
    assert abs(np.abs(a.x - exact).max() - told["error"]) < 1e-12
    assert np.abs(a.x - b.x).max() < 1e-6
    assert a.attributes["status"] == "converged" and a.attributes["input"].startswith(
        "bratu2d:n=12"
    )
    assert len(a.residual_history) == told["iterations"] + 1
    assert "anderson" in done[1].stdout and "converged in" in done[1].stdout
    assert done[2].json["status"] == "max_iterations"
    assert (tmp_path / "reaction2d.result.h5").exists()
    assert "Did you mean lambda" in done[3].stderr and "--jacobian" in done[4].stderr
    assert "plaplacian2d" in done[5].stdout
