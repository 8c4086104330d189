"""Damage matrix and result files at random, and see what their readers make of it.

``python -m tests.storage.damage --cases 400 --seed 1`` prints the tally. Each file is read in a
process of its own, so that a crash of HDF5 or a hang is an outcome like any other.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hpc_sla.errors import InputError

SECONDS = 100.0  # however busy the machine is
Read = Callable[[Path], dict[str, Any]]


def truncate(content: bytearray, rng: np.random.Generator) -> bytearray:
    return content[: rng.integers(0, len(content))]


def flip_a_bit(content: bytearray, rng: np.random.Generator) -> bytearray:
    content[rng.integers(0, len(content))] ^= 1 << rng.integers(0, 8)
    return content


def flip_bytes(content: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, len(content), rng.integers(2, 20)):
        content[place] ^= rng.integers(1, 256)
    return content


def flip_bookkeeping(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Near the signatures that HDF5 puts before its own records."""
    words = (b"OHDR", b"OCHK", b"FAHD", b"FADB", b"FRHP", b"FHDB", b"BTHD", b"BTLF", b"\x89HDF")
    marks = [i for word in words for i in _find_all(content, word)]
    place = (rng.choice(marks) if marks else 0) + rng.integers(0, 120)
    content[min(place, len(content) - 1)] ^= rng.integers(1, 256)
    return content


def lose_sectors(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Zeros or ones where a file system lost 512 bytes or more."""
    length = 512 * int(rng.integers(1, 4096))
    start = 512 * int(rng.integers(0, len(content) // 512 + 1))
    stop = min(start + length, len(content))
    content[start:stop] = (b"\0" if rng.integers(2) else b"\xff") * (stop - start)
    return content


def swap_sectors(content: bytearray, rng: np.random.Generator) -> bytearray:
    one, other = (512 * int(k) for k in rng.integers(0, max(len(content) // 512, 1), 2))
    kept = content[one : one + 512], content[other : other + 512]
    if len(kept[0]) == len(kept[1]):
        content[one : one + 512], content[other : other + 512] = kept[1], kept[0]
    return content


def repeat_a_piece(content: bytearray, rng: np.random.Generator) -> bytearray:
    """A transfer that was resumed in the wrong place."""
    start, stop = np.sort(rng.integers(0, len(content), 2))
    return content[:stop] + content[start:]


DAMAGE = (
    truncate,
    flip_a_bit,
    flip_bytes,
    flip_bookkeeping,
    lose_sectors,
    swap_sectors,
    repeat_a_piece,
)


def damaged(content: bytes, seed: int) -> bytes:
    """The content with the seed's kind of damage."""
    rng = np.random.default_rng(seed)
    return bytes(DAMAGE[seed % len(DAMAGE)](bytearray(content), rng))


def outcome(read: Read, path: Path, same: Callable[[dict[str, Any]], bool]) -> str:
    """``right answer``, ``clear error``, or what must not be."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 9
        try:
            code = _read(read, path, same)
        finally:
            os._exit(code)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            told = ("right answer", "clear error", "wrong answer", "unclear error")
            return told[code] if 0 <= code < 4 else "traceback" if code > 0 else "crash"
        time.sleep(0.0005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "hang"


def _read(read: Read, path: Path, same: Callable[[dict[str, Any]], bool]) -> int:
    try:
        found = read(path)
    except InputError as error:
        text = str(error)
        return 1 if text.startswith(os.fspath(path)) and error.remedy and "\n" not in text else 3
    except BaseException as error:
        print(f"{path}: {type(error).__name__}: {error}", file=sys.stderr)
        return 9
    return 0 if same(found) else 2


def tally(files: dict[str, tuple[bytes, str, Read]], seeds: range, folder: Path) -> Counter[str]:
    """Outcomes of the damage of each seed to the file whose turn it is.

    Parameters
    ----------
    files : dict of name to (content, suffix, reader)
    seeds : range
    folder : path
        For the damaged files; those with an outcome that must not be are left there.
    """
    from tests.storage.files import assert_identical

    expected = {}
    for name, (content, suffix, read) in files.items():
        good = folder / f"good{suffix}"
        good.write_bytes(content)
        expected[name] = read(good)
        good.unlink()

    def same_as(name: str) -> Callable[[dict[str, Any]], bool]:
        def same(found: dict[str, Any]) -> bool:
            try:
                assert_identical(found, expected[name])
            except AssertionError:
                return False
            return True

        return same

    counts: Counter[str] = Counter()
    names = list(files)
    for seed in seeds:
        name = names[seed // len(DAMAGE) % len(names)]
        content, suffix, read = files[name]
        path = folder / f"seed{seed}{suffix}"
        path.write_bytes(damaged(content, seed))
        came_to = outcome(read, path, same_as(name))
        counts[came_to] += 1
        if came_to in ("right answer", "clear error"):
            path.unlink()
        else:
            print(f"seed {seed}, {name}, {DAMAGE[seed % len(DAMAGE)].__name__}: {came_to}")
    return counts


def _find_all(content: bytes | bytearray, word: bytes) -> list[int]:
    found, start = [], content.find(word)
    while start >= 0:
        found.append(start)
        start = content.find(word, start + 1)
    return found


def main() -> int:
    from tests.storage.damage_files import checksummed

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=280)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first = options.seed * options.cases
        counts = tally(checksummed(), range(first, first + options.cases), Path(folder))
    for kind in ("right answer", "clear error", "wrong answer", "unclear error"):
        print(f"{kind}: {counts[kind]}")
    for kind in ("traceback", "crash", "hang"):
        print(f"{kind}: {counts[kind]}")
    return 0 if counts["right answer"] + counts["clear error"] == options.cases else 1


if __name__ == "__main__":
    sys.exit(main())
