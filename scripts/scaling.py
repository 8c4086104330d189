"""A strong scaling study's runs as a table and a plot.

    python scripts/scaling.py FOLDER

FOLDER holds results.csv, from `collect`, and the output of `solve --json` of each of these runs in
a file of its own, as jobs/scaling.sbatch leaves them. Writes scaling.csv and, where matplotlib is
installed, scaling.png there, and prints the table. The solve's seconds are the median over runs on
the same number of ranks; speed-up and efficiency are relative to the fewest ranks. Runs that did
not converge are left out.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from pathlib import Path


def table(folder: Path) -> list[dict[str, float]]:
    """A row a rank count, of the runs that are in results.csv and have their timings beside it."""
    seconds = {}
    for path in folder.glob("*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        seconds[Path(facts["result"]).name] = facts["seconds"]
    runs: dict[int, list[dict[str, float]]] = {}
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = Path(row["file"]).name
            if name in seconds and row["status"] == "converged":
                spent = {f"{stage}_s": seconds[name][stage] for stage in ("setup", "solve")}
                run = {"iterations": int(row["iterations"]), **spent}
                runs.setdefault(int(row["ranks"]), []).append(run)
    rows = []
    for ranks, of_these in sorted(runs.items()):
        row = {"ranks": ranks, "runs": len(of_these)}
        for name in of_these[0]:
            row[name] = statistics.median(run[name] for run in of_these)
        first = rows[0] if rows else row
        row["speedup"] = first["solve_s"] / row["solve_s"]
        row["efficiency"] = row["speedup"] * first["ranks"] / ranks
        rows.append(row)
    return rows


def plot(rows: list[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    from hpc_sla.report.plots import scaling

    figure = Figure(figsize=(5, 4), layout="constrained")
    spent = {"set-up": "setup_s", "solve": "solve_s"}
    seconds = {label: [row[name] for row in rows] for label, name in spent.items()}
    scaling(figure.subplots(), [int(row["ranks"]) for row in rows], seconds)
    figure.savefig(path, dpi=150)


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    rows = table(folder)
    if not rows:
        print(f"no converged run with timings in {folder}", file=sys.stderr)
        return 1
    with open(folder / "scaling.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print("".join(f"{name:>12}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:12.4g}" for value in row.values()))
    try:
        plot(rows, folder / "scaling.png")
    except ImportError:
        print("no plot: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
