"""Every Krylov method, for tests that hold of all."""

from hpc_sla.linear.choices import METHODS
from hpc_sla.linear.methods import make_method

ENTRIES = {name: make_method(name) for name in METHODS.classes}
