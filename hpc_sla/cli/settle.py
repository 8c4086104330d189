"""The files that a command names: what it reads, what it writes, and that these differ.

All that one command names is settled together, before any work is done: nothing is written over
what is read, no two outputs are one file, every output can be written, and no input is a pipe,
which would block.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import click

from hpc_sla.cli.files import (
    CONFIG,
    DEFAULT_PROBLEM,
    Read,
    Written,
    made_name,
    names_generator,
)
from hpc_sla.distributed.launcher import launch
from hpc_sla.errors import InputError
from hpc_sla.storage.atomic import check_writable, folds_case


@dataclass(frozen=True)
class _Named:
    option: str
    path: str
    replaces: bool = True
    hdf5: bool = False
    folders: bool = False


def settle(write: bool = True) -> None:
    """Refuse what the running command must not read or write. Local.

    Parameters
    ----------
    write : bool
        Try whether the outputs can be written, too.

    Raises
    ------
    InputError
        Naming the file and both options, where two are concerned.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return
    inputs, outputs = _named(context, launch().size)
    for one in inputs:
        _refuse_pipe(one.option, one.path)
    read = [
        _Named(one.option, path)
        for one in inputs
        for path in (_with_members(one.path) if one.folders else (one.path,))
    ]
    for k, output in enumerate(outputs):
        for other in (*read, *outputs[:k]):
            if _one_file(output.path, other.path):
                raise InputError(
                    f"is the same file as {other.path} of {other.option}",
                    file=output.path,
                    field=output.option,
                    remedy=f"Give {output.option} a name of its own",
                )
    for output in outputs:
        if output.replaces and write:
            try:
                _check_place(output.path, output.hdf5)
            except InputError as error:
                raise InputError(
                    error.problem, file=output.path, field=output.option, remedy=error.remedy
                ) from error


def _check_place(path: str, hdf5: bool) -> None:
    """Refuse a path that a file cannot be renamed to, or where one must not."""
    check_writable(path)
    named_so = path.lower().endswith((".h5", ".hdf5"))
    if hdf5 and not named_so and os.path.exists(path) and os.path.getsize(path):
        from hpc_sla.storage.hdf5 import is_hdf5  # loads h5py: see `hpc_sla.cli`

        with suppress(OSError):  # it cannot be read, which is no reason
            if is_hdf5(path):
                return
        raise InputError(
            "exists already, and is neither HDF5 nor named .h5 or .hdf5",
            file=path,
            remedy="Delete it, or choose another output path: FILE.h5",
        )


def _named(context: click.Context, ranks: int) -> tuple[list[_Named], list[_Named]]:
    inputs: list[_Named] = []
    outputs: list[_Named] = []
    params = context.params
    config = context.meta.get(CONFIG)
    if config is not None:
        inputs.append(_Named("--config", config))
    for parameter in context.command.params:
        kind, value = parameter.type, params.get(parameter.name or "")
        option = _option(parameter)
        if isinstance(kind, Read):
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            paths = [one for one in values if kind.chosen(one)]
            if kind.generators:
                paths = [one for one in paths if not names_generator(one)]
            inputs += [_Named(option, path, folders=kind.folders) for path in paths]
            if value is None and kind.default:
                made = made_name(DEFAULT_PROBLEM, ranks)
                outputs.append(_Named("the file made of the default problem", made))
        elif isinstance(kind, Written):
            value = kind.default(params) if value is None else value
            if value is not None:
                names = kind.names(value, params, ranks)
                outputs += [_Named(option, name, kind.replaces, kind.hdf5) for name in names]
    return inputs, outputs


def _option(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return parameter.human_readable_name.strip("[].")
    return max(parameter.opts, key=len)


def _with_members(path: str) -> Iterator[str]:
    """The path, and of a folder (`collect` takes some) the files that may be results."""
    yield path
    if os.path.isdir(path):
        with suppress(OSError), os.scandir(path) as found:
            yield from (one.path for one in found if one.name.endswith((".h5", ".hdf5")))


def _refuse_pipe(option: str, path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except NotADirectoryError as error:
        raise InputError(
            "no such file: a part of its path is not a folder",
            file=path,
            field=option,
            remedy="Check the name.",
        ) from error
    except OSError:
        return  # whoever reads it says what is missing
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        what = "a pipe" if stat.S_ISFIFO(mode) else "not a regular file"
        raise InputError(
            f"is {what} and cannot be read here",
            file=path,
            field=option,
            remedy="Write it to a file first, and name that.",
        )


def _one_file(one: str, other: str) -> bool:
    """Whether two names are, or would become, one file: by links of both kinds, `./`, or case."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        pass  # one of them is not there yet
    one, other = os.path.realpath(one), os.path.realpath(other)
    if one == other:
        return True
    folders = os.path.dirname(one), os.path.dirname(other)
    names = os.path.basename(one), os.path.basename(other)
    if names[0].casefold() != names[1].casefold() or not _same_folder(*folders):
        return False
    return names[0] == names[1] or _folds_case(one)


def _same_folder(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _folds_case(path: str) -> bool:
    try:
        return folds_case(path)
    except InputError:
        return False  # it cannot be written to, which is reported elsewhere
