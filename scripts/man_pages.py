"""Manual pages of all commands, out of their help: ``python scripts/man_pages.py FOLDER``.

FOLDER/man1/hpc_sla.1, hpc_sla-solve.1 and so on; ``man -M FOLDER hpc_sla-solve`` shows one. In an
environment, FOLDER is its share/man.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
from click_man.core import write_man_pages

import hpc_sla
from hpc_sla.cli import COMMANDS, group

LIST = re.compile(r"\.PP\n\x08\n((?:[^.].*\n)+)")
"""A paragraph whose lines are to stay lines: click's mark for it means nothing to man."""


def main(folder: str) -> None:
    with click.Context(group, info_name="hpc_sla") as context:
        # The command itself finds its commands by name only: see `hpc_sla.cli`.
        commands = {name: group.get_command(context, name) for name in COMMANDS}
    plain = click.Group("hpc_sla", commands=commands, params=group.params, help=group.help)
    target = Path(folder) / "man1"
    target.mkdir(parents=True, exist_ok=True)
    write_man_pages("hpc_sla", plain, version=hpc_sla.__version__, target_dir=str(target))
    for page in target.iterdir():
        page.write_text(LIST.sub(_keep_lines, page.read_text()))


def _keep_lines(found: re.Match[str]) -> str:
    return ".IP\n" + found[1].strip("\n").replace("\n", "\n.br\n") + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
