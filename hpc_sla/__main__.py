"""``python -m hpc_sla``: see `hpc_sla.cli`."""

from __future__ import annotations

import sys

from hpc_sla.cli import main

sys.exit(main())
