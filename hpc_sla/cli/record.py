"""--log-file, --log-all-ranks, --profile: what a command leaves behind about itself."""

from __future__ import annotations

import functools
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

from hpc_sla.cli import clock, exits
from hpc_sla.cli.files import Params, Written, settle
from hpc_sla.cli.launch import Launch, launch, told
from hpc_sla.errors import HpcSlaError, InputError
from hpc_sla.observe import log

if TYPE_CHECKING:
    from typing_extensions import Self

    from hpc_sla.cli.plan import Plan
    from hpc_sla.distributed.world import World
    from hpc_sla.observe.profile import Profile

_JOB = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST", "OMP_NUM_THREADS")
_SUMMARY = {"seconds": "stage_seconds"}

_running: Record | None = None


def record_options(function: Callable[..., int]) -> Callable[..., int]:
    """--log-file --log-all-ranks --profile, served around the command and all it calls."""

    @functools.wraps(function)
    def wrapper(
        *args: Any, log_file: str | None, log_all_ranks: bool, profile: bool, **kwargs: Any
    ) -> int:
        if log_all_ranks and log_file is None:
            raise InputError(
                "needs a file to log to", field="--log-all-ranks", remedy="Add --log-file FILE."
            )
        with Record(log_file, log_all_ranks, profile) as record:
            record.code = function(*args, **kwargs)
        return record.code

    for decorate in (
        click.option(
            "--profile",
            is_flag=True,
            help="Measure what the time goes to, and print a table of it at the end.",
        ),
        click.option(
            "--log-all-ranks",
            is_flag=True,
            help="A log for each rank: run.3.jsonl is that of rank 3 for --log-file run.jsonl.",
        ),
        click.option(
            "--log-file",
            type=Written(names=_log_names, replaces=False),
            metavar="FILE.jsonl",
            help="Write what happens there, one JSON object a line; added to a log that exists.",
        ),
    ):
        wrapper = decorate(wrapper)
    return wrapper


def _log_names(path: str, params: Params, ranks: int) -> list[str]:
    if not params.get("log_all_ranks"):
        return [path]
    return [log_name(path, rank) for rank in range(ranks)]


def log_name(path: str, rank: int) -> str:
    """Of one rank's log with --log-all-ranks: ``run.jsonl`` becomes ``run.3.jsonl``."""
    stem, extension = os.path.splitext(path)
    return f"{stem}.{rank}{extension}"


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
    told = {event: getattr(plan, name) for event, name in names.items()}
    log.emit("input", **told, result=plan.output)


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
        print(json.dumps(summary if profile is None else {**summary, "profile": profile}))
        return
    show()
    _show_profile(profile)


def _show_profile(found: dict[str, Any] | None, file: IO[str] | None = None) -> None:
    from hpc_sla.report.profile import print_profile

    if found is not None:
        print_profile(found, file)


def profile() -> Profile | None:
    """What measures the command that runs; None without --profile."""
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
        self._handler = log.JsonLines(path, rank, clock.started())
        log.logger.addHandler(self._handler)
        log.logger.setLevel(logging.INFO)
        warnings.showwarning = self._warned

    def _begin(self) -> None:
        if self._handler is None:
            return
        import hpc_sla
        from hpc_sla.cli.config import effective
        from hpc_sla.cli.provenance import packages

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
            hosts = world.gather_objects((platform.node(), os.getpid(), str(world.device)))
            self._tell_world(world, hosts)
        if self._profiled:
            # They load torch and every solver.
            from hpc_sla.cli.profile_events import hooks, settings
            from hpc_sla.observe.profile import Profile

            self.profile = Profile(world, hooks(world), settings(world))
            self.profile.__enter__()

    def _tell_world(self, world: World, told: list[tuple[str, int, str]] | None) -> None:
        if self._handler is None:
            return
        self._handler.rank = world.rank
        hosts: dict[str, list[int]] = {}
        for rank, (host, _, _) in enumerate(told or []):
            hosts.setdefault(host, []).append(rank)
        mpi = sys.modules.get("mpi4py.MPI")
        library = "none" if mpi is None else mpi.Get_library_version()
        fields: dict[str, Any] = {
            "ranks": world.size,
            "device": str(world.device),
            "transport": world.transport.name,
            "mpi": " ".join(library.strip("\x00 \n").splitlines()[0].split()),
        }
        if told is not None:
            fields["hosts"] = hosts
            fields["ranks_per_host"] = {host: len(ranks) for host, ranks in hosts.items()}
            fields["pids"] = [pid for _, pid, _ in told]
            fields["devices"] = sorted({device for _, _, device in told})
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
                self._tell_error(error)
            if self._handler is not None:
                log.emit("end", exit_code=self.code, meaning=MEANINGS.get(self.code, ""))
        finally:
            self._stop()
            _running = None

    def _tell_error(self, error: BaseException) -> None:
        """The last thing that is known of this rank. Local."""
        if isinstance(error, SystemExit):
            self.code = error.code if isinstance(error.code, int) else exits.FAILED
            return
        if isinstance(error, HpcSlaError):
            message, self.code = told(error)
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


MEANINGS = {
    exits.OK: "done",
    exits.FAILED: "failed",
    exits.USAGE: "bad input or usage",
    exits.NOT_CONVERGED: "not converged",
    exits.STALLED: "stalled",
    exits.PREEMPTED: "told to end before it was done",
}


def _options() -> dict[str, Any]:
    context = click.get_current_context(silent=True)
    return dict(context.params) if context else {}
