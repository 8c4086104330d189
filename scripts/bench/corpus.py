"""Solve many systems that public libraries assembled: by hpc_sla, PETSc and SuperLU.

python scripts/bench/corpus.py --list
python scripts/bench/corpus.py -o corpus.jsonl --only 'plate|cavity' --small
python scripts/bench/corpus.py -o corpus.jsonl --peers-from peers.jsonl
python scripts/bench/corpus.py -o corpus.jsonl --table

hpc_sla is given nothing but A and b (of a few systems the nodes and their places, too), unless
--method or --precond names something. Each run is a process of its own with a time limit; its
outcome is a line in the file of -o, and a run that is there already is not made again. At the end
stand a table and the figures of what is in the file. See scripts/bench/README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from systems import SYSTEMS, System
from table import FALSE, PEERS, figures, key, solved, table

HERE = Path(__file__).resolve().parent
NEEDED = {"skfem": "scikit-fem", "meshio": "meshio", "pyamg": "pyamg", "petsc4py": "petsc4py"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("corpus.jsonl"), help="a JSON line for each run")
    add("--only", default="", metavar="REGEX", help="systems whose names have this in them")
    add("--kinds", default="", help="such as saddle,elasticity: see --list")
    add("--small", action="store_true", help="systems of less than 20 000 rows")
    add("--large", action="store_true", help="systems of 20 000 rows or more")
    add("--ranks", default="1,4", help="of hpc_sla and of PETSc's defaults (default: 1,4)")
    add("--peers", default=",".join(PEERS), help=f"some of {','.join(PEERS)}; or none")
    add("--peers-from", type=Path, metavar="FILE", help="the peers' outcomes are in this file")
    add("--no-ours", action="store_true", help="the peers only")
    add("--method", default="", help="names hpc_sla's method")
    add("--precond", default="", help="names hpc_sla's preconditioner")
    add("--timeout", type=float, default=120.0, help="seconds for a run (default: 120)")
    add("--memory", type=float, default=8.0, help="GiB for each process (default: 8)")
    add("--repeats", type=int, default=1, help="solves, whose median time counts (default: 1)")
    add("--clock", choices=["wall", "cpu"], default="wall", help="the time that is compared")
    add("--keep", type=Path, metavar="FOLDER", help="keep the assembled systems here, for the next")
    add("--again", action="store_true", help="make the runs that are in the file once more")
    add("--list", action="store_true", help="only say which systems there are")
    add("--table", action="store_true", help="run nothing: the table of what is in the files")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[System]:
    kinds = set(filter(None, options.kinds.split(",")))
    unknown = kinds - {system.kind for system in SYSTEMS.values()}
    if unknown:
        sys.exit(f"there is no kind {', '.join(sorted(unknown))}; --list tells the kinds")
    return [
        system
        for system in SYSTEMS.values()
        if re.search(options.only, system.name)
        and (not kinds or system.kind in kinds)
        and (options.small == options.large or system.large == options.large)
    ]


def read(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def start(command: list[str], timeout: float) -> str:
    """Run it to its end, or for so long; what went wrong, or nothing."""
    clean = ("PMI_", "PMIX_", "OMPI_", "MPI_LOCAL", "HYDI_")  # if a launcher started this one
    environment = {k: v for k, v in os.environ.items() if not k.startswith(clean)}
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    # hpc_sla from this checkout, installed or not.
    path = [str(HERE.parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"no end within {timeout:g} s"
    finally:
        if process.poll() is None:  # too long, or this script itself is being ended
            end(process)
    if process.returncode == 0:
        return ""
    lines = [line for line in err.splitlines() if line.strip()]
    said = [line for line in lines if re.match(r"(\[\d+\] *)?[\w.]*(Error|Exception)\b", line)]
    return (said or lines or [f"exit status {process.returncode}"])[-1][:300]


def end(process: subprocess.Popen[str]) -> None:
    """It and all that it started: a launcher puts its ranks into groups of their own."""
    family = [process.pid]
    for parent in family:
        for children in Path("/proc").glob(f"{parent}/task/*/children"):
            family += map(int, children.read_text().split())
    for pid in reversed(family):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def launcher(ranks: int) -> list[str]:
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        sys.exit("no mpiexec beside this Python nor on the PATH")
    return [found, "-n", str(ranks), sys.executable]


def wanted(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Who is to solve each system, and on how many ranks."""
    ranks = [int(r) for r in options.ranks.split(",")]
    if not options.no_ours:
        yield from (("ours", r) for r in ranks)
    if options.peers_from is None and options.peers != "none":
        for peer in options.peers.split(","):
            yield from ((peer, r) for r in (ranks if peer.startswith("petsc") else [1]))


def solve_all(options: argparse.Namespace, systems: list[System], folder: Path) -> None:
    """Make the runs that are not in the file yet; their lines go there as they come."""
    named = {"method": options.method, "precond": options.precond}
    done = set() if options.again else {key(line) for line in read(options.output)}
    settings = json.dumps({**named, "repeats": options.repeats, "memory": options.memory})
    result = folder / f"result-{os.getpid()}.json"
    script = str(HERE / "runs.py")
    for number, system in enumerate(systems, start=1):
        todo = [
            {"system": system.name, "who": who, "ranks": ranks, "named": named if ours else {}}
            for who, ranks in wanted(options)
            for ours in [who == "ours"]
        ]
        todo = [line for line in todo if key(line) not in done]
        if not todo:
            continue
        stored = folder / f"{system.name}.npz"
        if not stored.exists():
            # Beside it and renamed: another of these scripts may look.
            building = folder / f"{system.name}-{os.getpid()}.npz"
            failed = start([sys.executable, script, "build", system.name, str(building)], 600)
            if failed:
                print(f"{system.name} cannot be assembled: {failed}", file=sys.stderr, flush=True)
                continue
            building.replace(stored)
        rows, entries = size(stored)
        for line in todo:
            result.unlink(missing_ok=True)
            command = [script, line["who"], str(stored), str(result), settings]
            failed = start([*launcher(line["ranks"]), *command], options.timeout)
            line |= {"kind": system.kind, "rows": rows, "entries": entries, "error": failed}
            if result.exists() and not failed:
                line |= json.loads(result.read_text())
            with options.output.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"[{number}/{len(systems)}] {told(line)}", file=sys.stderr, flush=True)
        if options.keep is None:
            stored.unlink()
    result.unlink(missing_ok=True)


def size(stored: Path) -> tuple[int, int]:
    import numpy as np  # --list and --help go without

    with np.load(stored) as file:
        return len(file["b"]), len(file["data"])


def told(line: dict[str, Any]) -> str:
    start = f"{line['system']:24} {line['who']:8} {line['ranks']} rank(s)"
    if line["error"]:
        return f"{start} FAILED: {line['error']}"
    false = f"  {FALSE}" if line["who"] == "ours" and line["converged"] and not solved(line) else ""
    return (
        f"{start} {'solved' if solved(line) else 'NOT solved':10} residual {line['residual']:.1e} "
        f"{line['seconds']:8.3f} s, {line['iterations']} its, {line['method']} {line['precond']} "
        f"({line['status']}){false}"
    )


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the run in hand is ended, too
    systems = chosen(options)
    if options.list:
        for system in systems:
            print(f"{system.name:24} {system.kind:12} {system.source} {system.arguments}")
        return
    lacking = [pip for name, pip in NEEDED.items() if importlib.util.find_spec(name) is None]
    if lacking:
        print(f"some systems or peers will fail: pip install {' '.join(lacking)}", file=sys.stderr)
    if not options.table:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.keep or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            solve_all(options, systems, folder)
    names = {system.name for system in systems}
    lines = [
        line
        for line in [*read(options.peers_from), *read(options.output)]
        if line["system"] in names
        and line.get("named", {}) in ({}, {"method": options.method, "precond": options.precond})
    ]
    # The last line of a run counts.
    runs = {(line["system"], line["who"], line["ranks"]): line for line in lines}
    print(table(runs, options.clock))
    print(figures(runs, options.clock))


if __name__ == "__main__":
    main()
