"""``--config RUN.toml``: a command's options from a file; the command line comes first.

The file's values become click's defaults, so that they are converted and checked as if they had
been typed. A result file is a configuration too: it holds the one it was made with.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Iterable
from typing import Any

import click

from hpc_sla.errors import InputError, MissingDependencyError

CONFIGURABLE = ("partition", "solve", "eigsh", "newton", "grad", "verify", "bench")
# From a result file these are left out: a file that came from elsewhere must not say what is
# to be overwritten.
_WRITTEN = (
    "output",
    "checkpoint",
    "checkpoint_every",
    "checkpoint_local",
    "checkpoint_copy_every",
    "resume",
    "log_file",
    "log_all_ranks",
)
_LARGEST = 1 << 20
_OURS = (".h5", ".hdf5")


def effective() -> str:
    """The options of the running command, wherever each came from, as TOML text.

    Read back by ``--config``. Empty outside a command.
    """
    context = click.get_current_context(silent=True)
    if context is None or context.info_name not in CONFIGURABLE:
        return ""
    lines = [f"[{context.info_name}]"]
    for key, parameter in _parameters(context.command).items():
        value = context.params.get(parameter.name or "")
        if value is None or value == ():
            continue
        if isinstance(parameter, click.Argument) and os.path.exists(value):
            value = os.path.abspath(value)
        lines.append(f"{key} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def configure(context: click.Context, path: str) -> None:
    """Make what `path` says the defaults of the command that runs.

    Raises
    ------
    InputError
        The file cannot be read, or sets what there is not, or what an option does not take.
    """
    command = context.info_name or ""
    found = _load(path)
    known = {name: _parameters(_command(name)) for name in CONFIGURABLE}
    shared = {key: value for key, value in found.items() if not isinstance(value, dict)}
    sections = {key: value for key, value in found.items() if isinstance(value, dict)}
    if path.endswith(_OURS) and command not in sections:
        raise InputError(
            f"was made by {', '.join(sections) or 'nothing known'}, not by {command}",
            file=path,
            field="config",
            remedy="Name a result of the same command.",
        )
    everywhere = set().union(*known.values())
    _refuse_unknown(path, "", shared, everywhere, beside=CONFIGURABLE)
    _refuse_unknown(path, "", sections, CONFIGURABLE, beside=everywhere, what="section")
    for name, section in sections.items():
        _refuse_unknown(path, f"[{name}] ", section, known[name])
    mine = known[command]
    values: dict[str, Any] = {}
    for where, table in (("", shared), (f"[{command}] ", sections.get(command, {}))):
        for key, value in table.items():
            parameter = mine.get(_normal(key))
            if parameter is not None:
                values[parameter.name or ""] = _checked(context, parameter, value, path, where, key)
    context.default_map = {**(context.default_map or {}), **values}


def _load(path: str) -> dict[str, Any]:
    if path.endswith(_OURS):
        return {
            name: {key: value for key, value in section.items() if _normal(key) not in _WRITTEN}
            for name, section in _parse(_stored(path), path).items()
            if isinstance(section, dict)
        }
    try:
        if os.path.isdir(path):
            raise InputError("is a folder, not a file", file=path, remedy="Name a TOML file.")
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(
                "is not a regular file",
                file=path,
                remedy="Write it to a file first, and name that.",
            )
        with open(path, "rb") as stream:
            content = stream.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise InputError("no such file", file=path, remedy="Check the name.") from error
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror or error}", file=path, remedy="Check its permissions."
        ) from error
    if len(content) > _LARGEST:
        raise InputError(
            f"cannot be a configuration: it has more than {_LARGEST} bytes",
            file=path,
            remedy="Check the name.",
        )
    try:
        text = content.decode("utf-8-sig")  # some editors write a mark first
    except UnicodeDecodeError as error:
        raise InputError(
            "is not UTF-8 text", file=path, remedy="Save it as UTF-8, as TOML wants."
        ) from error
    return _parse(text, path)


def _stored(path: str) -> str:
    # They load h5py: see `hpc_sla.cli`.
    from hpc_sla.storage.attributes import MATRIX_FORMAT, RESULT_FORMAT, attribute, check_format
    from hpc_sla.storage.hdf5 import HOW_TO_EITHER, open_read

    with open_read(path, HOW_TO_EITHER) as file:
        check_format(file, RESULT_FORMAT, MATRIX_FORMAT)
        text = attribute(file, "config")
    if not isinstance(text, str):
        raise InputError(
            "does not say what configuration it was made with",
            file=path,
            field="config",
            remedy="See its attribute `command`.",
        )
    return text


def _parse(text: str, path: str) -> dict[str, Any]:
    try:
        toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "needs the package tomli to be read",
            file=path,
            remedy="Install it with `pip install tomli`, or use Python 3.11.",
        ) from error
    try:
        found: dict[str, Any] = toml.loads(text)
        return found
    except (toml.TOMLDecodeError, RecursionError) as error:
        cause = " ".join(str(error).split())
        raise InputError(
            f"is not TOML: {cause}", file=path, remedy='Write it as: key = "value".'
        ) from error


def _command(name: str) -> click.Command:
    command: click.Command = importlib.import_module(f"hpc_sla.cli.{name}").command
    return command


def _parameters(command: click.Command) -> dict[str, click.Parameter]:
    """What a configuration may set, by key: the option's longest name, or the argument's."""
    return {
        _normal(max(parameter.opts, key=len).lstrip("-")): parameter
        for parameter in command.params
        if parameter.expose_value
    }


def _normal(key: str) -> str:
    return key.replace("-", "_")


def _refuse_unknown(
    path: str,
    where: str,
    given: Iterable[str],
    known: Iterable[str],
    beside: Iterable[str] = (),
    what: str = "option",
) -> None:
    seen: set[str] = set()
    for key in given:
        name = _normal(key)
        if name in seen:
            raise InputError(
                "is given twice", file=path, field=where + key, remedy="Leave one of them out."
            )
        seen.add(name)
        if name in known:
            continue
        near = difflib.get_close_matches(name, [*known, *beside], 1, 0.6)
        there = f"Known are: {', '.join(sorted(known))}."
        raise InputError(
            f"there is no such {what}",
            file=path,
            field=where + (f"[{key}]" if what == "section" else key),
            remedy=f"Perhaps {near[0]!r} is meant." if near else there,
        )


def _checked(
    context: click.Context,
    parameter: click.Parameter,
    value: Any,
    path: str,
    where: str,
    key: str,
) -> Any:
    """`value` if it is of the option's type and one that the option takes."""
    many = isinstance(parameter, click.Option) and parameter.multiple
    entries = value if many and isinstance(value, list) else [value]
    for entry in entries:
        wanted = _wanted(parameter, entry)
        if wanted:
            raise InputError(
                f"is {_kind(entry)}, it must be {wanted}",
                file=path,
                field=where + key,
                remedy=f"Write it as: {key} = {_example(parameter)}.",
            )
        try:
            parameter.type.convert(entry, parameter, context)
        except click.BadParameter as error:
            raise InputError(
                error.message.rstrip("."),
                file=path,
                field=where + key,
                remedy="See `--help` for what it may be.",
            ) from error
    return tuple(entries) if many else value


def _wanted(parameter: click.Parameter, value: Any) -> str:
    """The type that `value` ought to have; empty when it has it."""
    kind = parameter.type
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(kind, click.types.BoolParamType):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(kind, click.types.IntParamType):
        return "" if number and isinstance(value, int) else "a whole number"
    if isinstance(kind, click.types.FloatParamType):
        return "" if number else "a number"
    return "" if isinstance(value, str) else "text in quotes"


def _example(parameter: click.Parameter) -> str:
    kind = parameter.type
    if isinstance(kind, click.types.BoolParamType):
        return "true"
    if isinstance(kind, click.types.IntParamType):
        return "10"
    if isinstance(kind, click.types.FloatParamType):
        return "1e-8"
    return '"..."'


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, (list, dict)):
        return "an array" if isinstance(value, list) else "a table"
    return "a date or time"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    escaped = "".join(c if c.isprintable() and c not in '"\\' else _escape(c) for c in str(value))
    return f'"{escaped}"'


def _escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if "\ud800" <= character <= "\udfff":
        # A byte of a file's name that is not UTF-8, for which TOML has no escape. So repeating
        # the run ends with "no such file" rather than with another one's.
        return "\ufffd"
    return f"\\U{ord(character):08x}"
