"""The HDF5 formats (matrix, result) and importers. Knows nothing of torch or MPI.

Import from the modules: a rank that only reads its slab should not load the importers.
"""
