"""The HDF5 formats (matrix, result) and importers. Knows nothing of torch or MPI."""

from hpc_sla.storage.atomic import check_writable, replacing
from hpc_sla.storage.importers import ImportedMatrix, read_source, read_vector
from hpc_sla.storage.kind import kind_of
from hpc_sla.storage.matrix_file import MatrixFile, write_matrix
from hpc_sla.storage.result_file import Result, ResultWriter, describe, read_result

__all__ = [
    "ImportedMatrix",
    "MatrixFile",
    "Result",
    "ResultWriter",
    "check_writable",
    "describe",
    "kind_of",
    "read_result",
    "read_source",
    "read_vector",
    "replacing",
    "write_matrix",
]
