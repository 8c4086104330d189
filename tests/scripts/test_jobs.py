"""Job scripts ask for nothing that Slurm or the command line does not know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpc_sla.cli import main as main_command

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted([*ROOT.glob("jobs/*.sbatch"), *ROOT.glob("jobs/*.sh")])
BATCH = [job for job in JOBS if job.suffix == ".sbatch"]
# Of sbatch 22.05 and later, those that the scripts have a use for.
SBATCH_OPTIONS = {
    *("account", "array", "cpus-per-task", "dependency", "exclusive", "gpu-bind", "gpus-per-node"),
    *("job-name", "kill-on-invalid-dep", "nodes", "ntasks", "ntasks-per-node", "open-mode"),
    *("output", "parsable", "partition", "requeue", "signal", "time"),
}
