"""``python -m hpc_sla``: see `hpc_sla.cli`."""

from __future__ import annotations

# First of all: the imports below take longer than Slurm waits before it tells the ranks to end.
from hpc_sla.distributed import preemption

if __name__ == "__main__":
    preemption.install()

import sys

from hpc_sla.cli import main

sys.exit(main())
