"""The command line of `scripts/paper.py`."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path

import click
import torch
from backends import BACKENDS
from campaign import Campaign
from facts import about
from figures import draw
from planned import Options, plan
from record import write
from report import failures, markdown

from hpc_sla.observe.memory import available_bytes

ROOM = 0.8
"""The part of the memory that is free at first that one case may take."""


class Words(click.ParamType):
    """A list with commas in it, of these choices."""

    name = "list"

    def __init__(self, choices: tuple[str, ...], said: str = "") -> None:
        self.choices, self.said = choices, said or ", ".join(choices)

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        asked = value.split(",")
        for word in asked:
            if word not in self.choices:
                self.fail(f"{word!r} is none of {self.said}", param, ctx)
        return tuple(word for word in self.choices if word in asked)


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
RANKS = tuple(str(count) for count in range(1, 65))
TABLES = ("1", "2", "3")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="One small size, in under a minute.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="paper_report", show_default=True,
    help="Folder for report.md, report.json and the figures.",
)  # fmt: skip
@click.option(
    "--max-rows", type=click.IntRange(1), metavar="N",
    help="Leave out larger systems. Default: go on until time or memory ends it, or 1.69e8.",
)  # fmt: skip
@click.option(
    "--limit", type=click.FloatRange(1.0), default=120.0, show_default=True, metavar="SECONDS",
    help="For one solver at one size, Python's start included. It is not tried on larger ones.",
)  # fmt: skip
@click.option(
    "--memory", type=click.FloatRange(0.1), metavar="GB",
    help=f"For one solver at one size. Default: {ROOM} of what is free.",
)  # fmt: skip
@click.option(
    "--backends", type=Words(tuple(BACKENDS)), default=tuple(BACKENDS), metavar="NAME,...",
    help=f"Only these solvers, of {', '.join(BACKENDS)}.",
)  # fmt: skip
@click.option(
    "--ranks", type=Words(RANKS, "1 to 64"), metavar="P,...",
    help="Rank counts of Table 2. Default: 1, 2 and 4, up to the number of cores.",
)  # fmt: skip
@click.option("--tables", type=Words(TABLES), default=TABLES, metavar="1,2,3", help="Only these.")
@click.option(
    "--threads", type=click.IntRange(1), default=CORES, show_default=True,
    help="Of one process in Table 1; the ranks of Table 2 share them.",
)  # fmt: skip
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
    help="Where the solvers that can choose compute.",
)  # fmt: skip
@click.option(
    "--venv", type=click.Path(path_type=Path), metavar="FOLDER",
    help="torch-sla's own environment, made at first use. Default: venv in the output folder.",
)  # fmt: skip
def main(
    quick: bool,
    output: Path,
    max_rows: int | None,
    limit: float,
    memory: float | None,
    backends: tuple[str, ...],
    ranks: tuple[str, ...] | None,
    tables: tuple[str, ...],
    threads: int,
    device: str,
    venv: Path | None,
) -> None:
    """Run Tables 1 to 3 and Figures 2 to 4 of the torch-sla paper on this machine.

    Each solver and size is a process of its own, with limits of time and memory: what goes beyond
    them is a cell of the table. Exit code 0; 1 where hpc_sla itself failed or a solution or
    gradient of its own is wrong; 2 for bad options.
    """
    # So that what runs at that moment is ended, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if device != "cpu":
        there = torch.cuda.is_available()
        if device == "cuda" and not there:
            raise click.BadParameter("torch sees no GPU", param_hint="--device")
        device = "cuda" if there else "cpu"
    output = output.resolve()
    try:
        (output / "logs").mkdir(parents=True, exist_ok=True)
        (output / "report.json").touch()
    except OSError as error:
        raise click.BadParameter(f"{output}: {error.strerror}", param_hint="--output") from error
    counts = tuple(map(int, ranks)) if ranks else (2,) if quick else default_ranks()
    options = Options(
        quick=quick,
        max_rows=max_rows,
        limit=limit,
        memory=1e9 * memory if memory else ROOM * (available_bytes() or 1 << 32),
        backends=backends,
        ranks=counts,
        tables=tuple(map(int, tables)),
        threads=threads,
        device=device,
        venv=(venv or output / "venv").resolve(),
    )
    todo = plan(options)
    if not todo:
        raise click.UsageError("nothing is left to run: no size of the paper is so small")
    command = shlex.join(["python", "scripts/paper.py", *sys.argv[1:]])
    campaign = Campaign(options, todo, output, {**about(options), "command": command})
    found = campaign.run()
    found["figures"] = draw(found, output)
    write(output / "report.json", found)
    (output / "report.md").write_text(markdown(found))
    wrong = failures(found)
    for line in wrong:
        click.echo(f"FAILED {line}", err=True)
    click.echo(output / "report.md")
    sys.exit(1 if wrong else 0)


def default_ranks() -> tuple[int, ...]:
    return tuple(count for count in (1, 2, 4) if count <= CORES)
