"""Results of matrices with fewer rows than ranks, where rank 0 may have none."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.cli.run.result import write_result
from hpc_sla.storage.result_file import read_result
from tests.collective import distribute, everywhere, spread

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("partition", ["contiguous", "all on the last"])
@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_a_gradient_with_respect_to_the_matrix(world, folder, n, partition):
    whole = sp.csr_matrix(np.arange(1.0, n * n + 1).reshape(n, n))
    A = distribute(whole, world, partition)
    x = spread(A.layout, np.arange(float(n)))
    path = str(folder / "r.h5")
    write_result(path, {"x": (A.layout, x)}, [1.0], {}, {}, matrix_gradient=(A, -A.values))
    found = read_result(path)
    gradient = found.matrix_gradient
    assert everywhere(world, np.array_equal(found.x, np.arange(float(n))))
    assert everywhere(world, np.array_equal(gradient.toarray(), -whole.toarray()))
    assert everywhere(world, gradient.indptr.tolist() == [n * i for i in range(n + 1)])
