"""Damaged matrix files through the whole of ``solve``: told on all ranks, or the right answer."""

from __future__ import annotations

from collections import Counter

import numpy as np

from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.storage.result_file import read_result
from tests.cli.cases import run_cases
from tests.storage.damage import DAMAGE, damaged

CASES = 2 * len(DAMAGE)


def test_two_ranks_and_a_damaged_file(tmp_path):
    write_partitioned(load_source("poisson2d:n=20", ["manufactured"]), tmp_path / "m.h5", 2, "rcb")
    content = (tmp_path / "m.h5").read_bytes()
    cases = {"good": ["solve", "m.h5", "-o", "good.h5"]}
    for seed in range(CASES):
        (tmp_path / f"d{seed}.h5").write_bytes(damaged(content, seed))
        cases[str(seed)] = ["solve", f"d{seed}.h5", "-o", f"x{seed}.h5"]
    # Damage that hits nothing, so that a right answer is among what is compared.
    (tmp_path / "d.h5").write_bytes(content + bytes(100))
    cases[""] = ["solve", "d.h5", "-o", "x.h5"]
    told = run_cases(2, cases, tmp_path)
    assert told["good"].codes == [0, 0]
    expected = read_result(tmp_path / "good.h5").x
    counts: Counter[str] = Counter()
    for name in list(cases)[1:]:
        found, result = told[name], tmp_path / f"x{name}.h5"
        if found.codes == [0, 0]:
            np.testing.assert_array_equal(read_result(result).x, expected)
            counts["right answer"] += 1
            continue
        assert found.codes == [2, 2], (name, found)
        (line,) = found.stderr.splitlines()
        assert line.startswith(f"hpc_sla: error: d{name}.h5: "), line
        assert found.others == ""
        assert not result.exists()
        counts["clear error"] += 1
    print(dict(counts))
    assert counts["clear error"] > CASES // 2
    assert counts["right answer"] >= 1
    assert not list(tmp_path.glob(".*.part"))
