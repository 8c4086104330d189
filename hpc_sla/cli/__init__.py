"""The command line: ``python -m hpc_sla COMMAND``; one module per command.

A command is two modules. ``hpc_sla.cli.NAME`` has what the shell sees: arguments, options, help,
and what can be refused at once. ``hpc_sla.cli.run.NAME`` has what it does, with all that it
computes with, and is imported by the former when the command runs: ``--help`` waits for nothing,
and ``info`` and ``partition`` never load torch. (Small ones do both in one.)
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Sequence

import click
from click.shell_completion import shell_complete

import hpc_sla
from hpc_sla.cli import exits
from hpc_sla.cli.streams import failure, guarded
from hpc_sla.distributed.launcher import Launch, launch
from hpc_sla.errors import HpcSlaError

STARTED = time.perf_counter()
"""When the command began: what its seconds in total and its log's times count from."""
PROGRAM = "python -m hpc_sla"
COMMANDS = (
    "partition",
    "info",
    "solve",
    "eigsh",
    "newton",
    "grad",
    "verify",
    "bench",
    "backends",
    "collect",
    "diff",
    "export",
    "plot",
)
PRINT_ONLY = ("info", "backends", "collect")
"""Commands whose whole outcome is what they print (of `collect -o`, which prints nothing, not)."""
COMPLETE = "_HPC_SLA_COMPLETE"
"""The environment variable by which a shell asks for completions, as click has it."""


class _LazyGroup(click.Group):
    """A group that imports ``hpc_sla.cli.<name>`` when the command <name> is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"hpc_sla.cli.{cmd_name}").command
        return command


@click.group(
    cls=_LazyGroup,
    help="Distributed sparse linear algebra on PyTorch tensors, over MPI. "
    "'mpiexec -n 4 python -m hpc_sla solve' is a complete first run.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(hpc_sla.__version__, prog_name="hpc_sla")
def group() -> None:
    pass


@group.result_callback()
def _conclude(code: int | None) -> int | None:
    """Lost output is an error of those commands only that do nothing else."""
    lost = failure()
    if lost is None:
        return code
    what = f"standard output cannot be written: {lost.strerror or lost}"
    if click.get_current_context().invoked_subcommand in PRINT_ONLY and not code:
        raise HpcSlaError(what)
    print(f"hpc_sla: {what}", file=sys.stderr)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (see `hpc_sla.cli.exits`).

    Every rank parses the same arguments, and so meets the same usage error. Errors a user can
    mend become one message on rank 0's stderr; anything else is a bug, and passes through with
    its traceback.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: ``sys.argv[1:]``.
    """
    launched = launch()
    # Only rank 0 answers; this also silences --help and --version on the others.
    with guarded(silent=not launched.is_root):
        return _main(arguments, launched)


def _main(arguments: Sequence[str] | None, launched: Launch) -> int:
    if COMPLETE in os.environ:
        return shell_complete(group, {}, "hpc_sla", COMPLETE, os.environ[COMPLETE])
    try:
        code = group.main(
            None if arguments is None else list(arguments),
            prog_name=PROGRAM,
            standalone_mode=False,
        )
        return int(code or exits.OK)
    except click.exceptions.NoArgsIsHelpError as error:
        return exits.fail_together(error.format_message(), exits.USAGE, launched)
    except click.ClickException as error:
        return exits.fail_together(_usage_message(error), exits.USAGE, launched)
    except HpcSlaError as error:
        return exits.fail_together(*exits.message_and_code(error), launched)
    except click.Abort:
        return _interrupted(launched)


def _usage_message(error: click.ClickException) -> str:
    text = error.format_message()
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else PROGRAM
    return f"hpc_sla: error: {text} See '{command} --help'."


def _interrupted(launched: Launch) -> int:
    if launched.is_root:
        print("hpc_sla: interrupted", file=sys.stderr, flush=True)
    mpi = sys.modules.get("mpi4py.MPI")
    if launched.size > 1 and mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.COMM_WORLD.Abort(exits.FAILED)
    return exits.FAILED
