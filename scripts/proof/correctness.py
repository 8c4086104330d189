"""Correctness before speed: answers, gradients, the same bits again."""

from __future__ import annotations

import warnings

import answers
import bits
import gradients
from plan import Plan
from record import Record

import hpc_sla as hs

FALL_BACK = ("captured", "Triton", "slow")
"""What a RuntimeWarning that tells of a slower way has in it."""


def run(world: hs.World, plan: Plan, record: Record) -> None:
    """**Collective.**"""
    record.facts(ranks=world.size, transport=world.transport.name, device=str(world.device))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        bits.run(world, plan, record)
        answers.run(world, plan, record)
        gradients.run(world, plan, record)
    said = sorted({str(w.message) for w in heard if issubclass(w.category, RuntimeWarning)})
    record.facts(notices=said)
    slower = [text for text in said if any(word in text for word in FALL_BACK)]
    record.check("nothing fell back to a slower way", not slower, notices=slower)
