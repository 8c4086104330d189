"""Every Krylov method, and every preconditioner, for tests that hold of all."""

from hpc_sla.linear.choices import METHODS
from hpc_sla.linear.methods import make_method
from hpc_sla.precond.choices import CHOICES

ENTRIES = {name: make_method(name) for name in METHODS.classes}

GENERAL = [name for name in CHOICES if name != "schur"]
"""Preconditioners of any matrix; that of saddle points is in tests/precond/test_schur.py."""
