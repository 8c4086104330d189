"""Job scripts ask for nothing that Slurm or the command line does not know."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from hpc_sla.cli import group

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted([*ROOT.glob("jobs/*.sbatch"), *ROOT.glob("jobs/*.sh")])
BATCH = [job for job in JOBS if job.suffix == ".sbatch"]
# Of sbatch 22.05 and later, those that the scripts have a use for.
SBATCH_OPTIONS = {
    *("account", "array", "cpus-per-task", "dependency", "exclusive", "gpu-bind", "gpus-per-node"),
    *("job-name", "kill-on-invalid-dep", "nodes", "ntasks", "ntasks-per-node", "open-mode"),
    *("output", "parsable", "partition", "requeue", "signal", "time"),
}


def text(job: Path) -> str:
    """Without comments and messages, and a command a line."""
    lines = [re.sub(r"(^|\s)#(?!SBATCH).*", "", line) for line in job.read_text().splitlines()]
    lines = [line for line in lines if "echo " not in line]
    return "\n".join(lines).replace("\\\n", " ")


def test_there_are_jobs():
    names = {"solve", "solve-gpu", "solve-requeue", "scaling", "collect", "step"}
    assert {job.stem for job in BATCH} == names
    assert (ROOT / "jobs" / "pipeline.sh").exists()


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.name)
def test_sbatch_options_are_known(job):
    asked = [line for line in job.read_text().splitlines() if re.match(r"##?SBATCH", line)]
    asked += re.findall(r"\bsbatch (--.*)", text(job))
    assert asked or job.suffix == ".sh"
    options = {name for line in asked for name in re.findall(r"(?<![\w-])--([a-z-]+)", line)}
    assert options <= SBATCH_OPTIONS
    assert not [line for line in asked if re.search(r"(?<![\w-])-[a-zA-Z]\b", line)], "short ones"


@pytest.mark.parametrize("job", BATCH, ids=lambda path: path.name)
def test_sbatch_options_come_before_the_first_command(job):
    """Slurm ignores what comes later."""
    lines = job.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.name)
def test_commands_and_their_options_exist(job):
    calls = re.findall(r"(?:-m hpc_sla|jobs/step\.sbatch) ([a-z]+)(.*)", text(job))
    calls += [("solve", rest) for rest in re.findall(r"jobs/solve\.sbatch (.*)", text(job))]
    assert calls or job.name in ("environment.sh", "step.sbatch", "unpack.sh")
    for name, rest in calls:
        command = group.get_command(click.Context(group), name)
        assert command is not None, name
        known = {word for parameter in command.params for word in parameter.opts}
        used = {word.split("=")[0] for word in re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest)}
        assert used <= known, name


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.name)
def test_files_that_jobs_name_exist(job):
    for name in re.findall(r"\b(?:jobs|scripts)/[\w.-]+\.(?:sbatch|sh|py)\b", job.read_text()):
        assert (ROOT / name).exists()
