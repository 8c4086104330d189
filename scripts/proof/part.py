r"""One part of the proof, on one number of ranks; `proof.py` starts it.

mpiexec -n 2 python scripts/proof/part.py correctness FOUND.json \
    '{"small": true, "transport": "auto", "seconds": 60}'
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from plan import FULL, SMALL
from record import Record

import hpc_sla as hs


def main() -> None:
    name, path, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    plan = SMALL if options["small"] else FULL
    world = hs.World(device=plan.device, transport=options["transport"])
    record = Record(world, path, options["seconds"])
    importlib.import_module(name).run(world, plan, record)


if __name__ == "__main__":
    main()
