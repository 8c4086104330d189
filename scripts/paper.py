"""Run the tables and figures of the torch-sla paper here, with its backends, ours and torch-sla.

python scripts/paper.py                     all sizes that fit here; paper_report/report.md
python scripts/paper.py --max-rows 2000000 --limit 60 -o /tmp/paper
python scripts/paper.py --quick             one small size, in under a minute
python scripts/paper.py --help              all options
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path[:0] = [str(HERE / "paper"), str(HERE / "proof"), str(HERE.parent)]
    import_module("command").main()
