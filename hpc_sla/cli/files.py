"""What kinds of files an option may name, and the names of those that nobody named.

An option that names a file has the type `Read` or `Written`. What those say of it is for
`hpc_sla.cli.settle`, which looks at all files of a command together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

CONFIG = "hpc_sla.config"
"""Where `--config` leaves its path in a click context's `meta`: it is no parameter."""
DEFAULT_PROBLEM = "poisson2d:n=256"
"""The generator whose problem is made where no file is named."""
ONES = "ones"
MANUFACTURED = "manufactured"
NAMED_VECTORS = ("rigid_body", "constants")
"""Right-hand sides that are no files: see `hpc_sla.cli.prepare.load_source`."""

Params = Mapping[str, Any]


class _File(click.ParamType):
    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            self.fail("a file's name is empty", param, ctx)
        if "\0" in value:
            self.fail("a file's name has a zero byte in it", param, ctx)
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class Read(_File):
    """An option that names files to be read.

    Parameters
    ----------
    chosen : callable, optional
        Whether a value names a file, where it may be something else: a name within a file.
    generators : bool
        Whether a value may be a generator instead.
    default : bool
        Whether `DEFAULT_PROBLEM` is made in the current folder where no value is given, as a file:
        `made_name`.
    folders : bool
        Whether a folder stands for the files in it.
    """

    def __init__(
        self,
        chosen: Callable[[str], bool] | None = None,
        generators: bool = False,
        default: bool = False,
        folders: bool = False,
    ) -> None:
        self.chosen = chosen or (lambda value: True)
        self.generators, self.default = generators, default
        self.folders = folders


class Written(_File):
    """An option that names a file to be written.

    Parameters
    ----------
    default : callable, optional
        Its name by all parameters, where none is given.
    names : callable, optional
        What is written, by the option's value, all parameters and the ranks. Default: the value.
    replaces : bool
        Whether it takes a file's place by a rename; a log is added to.
    hdf5 : bool
        Whether it is HDF5, which replaces its like and what is called .h5, and nothing else.
    """

    def __init__(
        self,
        default: Callable[[Params], str | None] | None = None,
        names: Callable[[str, Params, int], list[str]] | None = None,
        replaces: bool = True,
        hdf5: bool = False,
    ) -> None:
        self.default = default or (lambda params: None)
        self.names = names or (lambda value, params, ranks: [value])
        self.replaces, self.hdf5 = replaces, hdf5


def default_output(file: str | None, kind: str, ranks: int) -> str:
    """The result's name where none is given, in the current folder."""
    if file is not None and names_generator(file):
        return f"{_plain(file)}.{kind}.h5"
    return f"{Path(file or made_name(DEFAULT_PROBLEM, ranks)).stem}.{kind}.h5"


def names_generator(text: str) -> bool:
    """Whether `text` names a generator (``poisson2d:n=256``) rather than a file."""
    if os.path.exists(text):
        return False
    # A misspelt generator has no folder and no suffix either: the generators suggest the right
    # one, which "no such file" would not.
    head = text.partition(":")[0]
    return not (os.path.dirname(head) or Path(head).suffix)


def newton_output(problem: str) -> str:
    """The same of `newton`, whose problem is no file."""
    return f"{problem.partition(':')[0]}.result.h5"


def made_name(spec: str, ranks: int) -> str:
    """The file in the current folder that a generator's problem goes to."""
    return f"{_plain(spec)}-p{ranks}.h5"


def _plain(spec: str) -> str:
    return spec.replace(":", "-").replace(",", "-").replace("=", "")


def log_names(path: str, params: Params, ranks: int) -> list[str]:
    """The logs of --log-file and --log-all-ranks."""
    if not params.get("log_all_ranks"):
        return [path]
    return [log_name(path, rank) for rank in range(ranks)]


def log_name(path: str, rank: int) -> str:
    """One rank's log with --log-all-ranks: ``run.jsonl`` becomes ``run.3.jsonl``."""
    stem, extension = os.path.splitext(path)
    return f"{stem}.{rank}{extension}"
