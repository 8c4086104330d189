"""The command line of `scripts/gpu_proof.sh`, in the standard library: read before the set-up, too.

python3 scripts/proof/options.py ARGUMENTS...   ends with 2 where they make no sense, else with 0
"""

from __future__ import annotations

import argparse
import math
import sys

PARTS = ("machine", "correctness", "table1", "table2", "peers")
"""In the order in which they run."""

DESCRIPTION = """Prove what hpc_sla does on this machine's GPUs: correctness first, then the
published tables, then other libraries on the same card. One JSON file, a short table, and an exit
code: 0 where nothing failed, 1 where something did, 2 for bad options. docs/gpu.md says what each
figure means."""


def parts(text: str) -> tuple[str, ...]:
    asked = text.split(",")
    for name in asked:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"there is no part {name!r}: {', '.join(PARTS)}")
    return tuple(name for name in PARTS if name in asked)


def rank_counts(text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError:
        found = ()
    if not found or not all(1 <= count <= 64 for count in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of rank counts such as 1,2,4")
    return found


def minutes(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0.5 <= found <= 24 * 60:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of minutes, half of one at least"
        )
    return found


def parse(arguments: list[str]) -> argparse.Namespace:
    """What was asked for; ends the process with 2 where it makes no sense."""
    parser = argparse.ArgumentParser("gpu_proof.sh", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "--small",
        action="store_true",
        help="small problems on the CPU, for a machine without a GPU",
    )
    parser.add_argument(
        "--only",
        type=parts,
        default=PARTS,
        metavar="PART,...",
        help=f"run these parts alone, of {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--ranks",
        type=rank_counts,
        metavar="P,...",
        help="rank counts (default: 1, 2, 4, 8 up to the number of GPUs, and that number)",
    )
    parser.add_argument(
        "--minutes",
        type=minutes,
        default=9.0,
        metavar="M",
        help="how long it may take, besides the set-up of the environment (default: 9)",
    )
    parser.add_argument(
        "-o",
        dest="output",
        default="gpu_proof.json",
        metavar="FILE",
        help="where the JSON goes (default: gpu_proof.json)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    parse(sys.argv[1:])
