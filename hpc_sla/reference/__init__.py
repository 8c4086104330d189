"""The same problem through PETSc or SciPy, for cross-checks only; imported nowhere else."""
