"""What a command leaves behind about itself: --log-file, --log-all-ranks, --profile."""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import click

import hpc_sla
from hpc_sla.cli import STARTED, exits
from hpc_sla.cli.config import effective
from hpc_sla.cli.files import log_name
from hpc_sla.cli.settle import settle
from hpc_sla.distributed.launcher import Launch, launch
from hpc_sla.errors import HpcSlaError, InputError
from hpc_sla.observe import log
from hpc_sla.report.profile import print_profile

if TYPE_CHECKING:
    from typing_extensions import Self

    from hpc_sla.cli.run.plan import Plan
    from hpc_sla.distributed.world import World
    from hpc_sla.observe.profile import Profile

_JOB = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST", "OMP_NUM_THREADS")
_SUMMARY = {"seconds": "stage_seconds"}
_PACKAGES = ("torch", "numpy", "scipy", "mpi4py", "h5py")

_running: Record | None = None


def running() -> Record | None:
    """The record of the command that runs, if it has one."""
    return _running


def gather_profile(world: World) -> dict[str, Any] | None:
    """All ranks' events, on rank 0; None elsewhere, and without --profile. **Collective.**"""
    measured = profile()
    if measured is None:
        return None
    found = measured.gather()
    if found is not None:
        log.emit("profile", profile=found)
    return found


def log_input(plan: Plan) -> None:
    """Which files a run is of. Local."""
    names = {"path": "path", "digest": "digest", "made_from": "made", "rhs": "rhs"}
    fields = {event: getattr(plan, name) for event, name in names.items()}
    log.emit("input", **fields, result=plan.output)


def conclude(
    summary: dict[str, Any],
    profile: dict[str, Any] | None,
    as_json: bool,
    show: Callable[[], None],
) -> None:
    """Log what came of a run, and print it, the profile with it. Local, for rank 0.

    Parameters
    ----------
    summary : dict
        What --json prints.
    profile : dict or None
        Of `gather_profile`.
    as_json : bool
    show : callable
        Prints the summary as a person reads it.
    """
    log.emit("summary", **{_SUMMARY.get(key, key): value for key, value in summary.items()})
    if as_json:
        if profile is not None:
            # A figure for each rank is for the log.
            brief = {name: value for name, value in profile.items() if name != "by_rank"}
            summary = {**summary, "profile": brief}
        print(json.dumps(summary))
        return
    show()
    _show_profile(profile)


def _show_profile(found: dict[str, Any] | None, file: IO[str] | None = None) -> None:
    if found is not None:
        print_profile(found, file)


def profile() -> Profile | None:
    """The profile of the command that runs; None without --profile."""
    return _running.profile if _running else None


class Record:
    """The log and the profile of one command. A context manager around all of it.

    Parameters
    ----------
    path : str or None
    all_ranks : bool
    profiled : bool
        Measure, from `world_is_up` on.

    Attributes
    ----------
    code : int
        The exit code, to be set.
    profile : Profile or None
    """

    def __init__(self, path: str | None, all_ranks: bool, profiled: bool) -> None:
        self._path, self._all, self._profiled = path, all_ranks, profiled
        self.code: int = exits.FAILED
        self.profile: Profile | None = None
        self._launched: Launch = launch()
        self._handler: log.JsonLines | None = None
        self._failed: InputError | None = None
        self._level = log.logger.level
        self._show = warnings.showwarning

    def __enter__(self) -> Self:
        global _running
        try:
            if self._all or self._launched.is_root:
                settle(write=self._launched.is_root)
                if self._path is not None:
                    self._open()
        except InputError as error:
            if self._launched.size == 1:
                raise
            self._failed = error  # raised where all ranks can
        _running = self
        self._begin()
        return self

    def _open(self) -> None:
        assert self._path is not None
        rank = self._launched.rank
        path = log_name(self._path, rank) if self._all else self._path
        self._handler = log.JsonLines(path, rank, STARTED)
        log.logger.addHandler(self._handler)
        log.logger.setLevel(logging.INFO)
        warnings.showwarning = self._warned

    def _begin(self) -> None:
        if self._handler is None:
            return
        log.emit(
            "start",
            command=shlex.join(["python", "-m", "hpc_sla", *sys.argv[1:]]),
            options=_options(),
            config=effective(),
            versions={
                "hpc_sla": hpc_sla.__version__,
                "python": platform.python_version(),
                **packages(),
            },
            host=platform.node(),
            system=platform.platform(),
            pid=os.getpid(),
            folder=os.getcwd(),
            environment={name: os.environ[name] for name in _JOB if name in os.environ},
        )

    def world_is_up(self, world: World) -> None:
        """Tell of the ranks, and begin to measure. **Collective.**

        Raises
        ------
        InputError
            On every rank, where one of the command's files cannot be read or written.
        """
        with world.agree():
            if self._failed is not None:
                raise self._failed
        if self._path is not None:
            if not self._all and world.rank != 0:
                self._stop()  # a launcher that we do not know had each rank take itself for the 0th
            mine = platform.node(), os.getpid(), str(world.device)
            self._log_world(world, world.gather_objects(mine))
        if self._profiled:
            # They load torch and every solver.
            from hpc_sla.cli.run.profile_events import hooks, settings
            from hpc_sla.observe.profile import Profile

            self.profile = Profile(world, hooks(world), settings(world))
            self.profile.__enter__()

    def _log_world(self, world: World, processes: list[tuple[str, int, str]] | None) -> None:
        if self._handler is None:
            return
        self._handler.rank = world.rank
        hosts: dict[str, list[int]] = {}
        for rank, (host, _, _) in enumerate(processes or []):
            hosts.setdefault(host, []).append(rank)
        mpi = sys.modules.get("mpi4py.MPI")
        library = "none" if mpi is None else mpi.Get_library_version()
        fields: dict[str, Any] = {
            "ranks": world.size,
            "device": str(world.device),
            "transport": world.transport.name,
            "mpi": " ".join(library.strip("\x00 \n").splitlines()[0].split()),
        }
        if processes is not None:
            fields["hosts"] = hosts
            fields["ranks_per_host"] = {host: len(ranks) for host, ranks in hosts.items()}
            fields["pids"] = [pid for _, pid, _ in processes]
            fields["devices"] = sorted({device for _, _, device in processes})
        log.emit("world", **fields)

    def world_ends(self, world: World) -> None:
        """Show what was measured, unless the command has. **Collective.**"""
        if self.profile is not None and not self.profile.reported:
            _show_profile(gather_profile(world), sys.stderr)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _running
        try:
            if self.profile is not None:
                self.profile.__exit__(None, None, None)
            if error is not None:
                self._log_error(error)
            if self._handler is not None:
                log.emit("end", exit_code=self.code, meaning=exits.MEANINGS.get(self.code, ""))
        finally:
            self._stop()
            _running = None

    def _log_error(self, error: BaseException) -> None:
        """The last thing that is known of this rank. Local."""
        if isinstance(error, SystemExit):
            self.code = error.code if isinstance(error.code, int) else exits.FAILED
            return
        if isinstance(error, HpcSlaError):
            message, self.code = exits.message_and_code(error)
            where = {name: getattr(error, name, None) for name in ("file", "field", "remedy")}
            problem = getattr(error, "problem", None)
            kind = type(error).__name__
            log.emit("error", logging.ERROR, message=message, kind=kind, problem=problem, **where)
            return
        self.code = exits.USAGE if isinstance(error, click.ClickException) else exits.FAILED
        if self._handler is None and self._path is not None and self._failed is None:
            # Of a rank without a log of its own this one thing is worth a line in the common one.
            try:
                self._open()
            except InputError:
                return
        log.emit(
            "error",
            logging.CRITICAL,
            message=str(error) or type(error).__name__,
            kind=type(error).__name__,
            traceback="".join(traceback.format_exception(error)),
        )

    def _stop(self) -> None:
        if self._handler is None:
            return
        warnings.showwarning = self._show
        log.logger.removeHandler(self._handler)
        log.logger.setLevel(self._level)
        self._handler.close()
        self._handler = None

    def _warned(self, message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
        log.emit("warning", logging.WARNING, message=str(message), kind=category.__name__)
        self._show(message, category, *args, **kwargs)


def _options() -> dict[str, Any]:
    context = click.get_current_context(silent=True)
    return dict(context.params) if context else {}


def packages() -> dict[str, str]:
    """Versions of the packages that compute and store. Local."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow; `--help` needs none

    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
