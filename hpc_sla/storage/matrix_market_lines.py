"""The lines of numbers of a MatrixMarket file, each looked at in whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from hpc_sla.errors import InputError
from hpc_sla.storage import number_text as text

BLOCK = 1 << 22
LONGEST_LINE = 1 << 20
_MANY = 1 << 16
_COMPLETE = "Check that the file is complete."
_WORD = re.compile(r"[^ \t]+")
_COMMENT = re.compile(rb"^[ \t]*%[^\n]*", re.MULTILINE)


class CheckedLines:
    """Blocks of whole lines, in the spelling that parsers of C take. Iterate once.

    Lines keep their places: those with comments become blank.

    Parameters
    ----------
    stream : binary file
        At the first line after the sizes.
    path : str
        What messages call it.
    width : int
        Numbers in a line: the last is a value (but of 2, a pattern's), those before it indices.
    integer : bool
        Whether values must be integers.
    entries : int
        How many lines there must be.
    before : int
        Lines before the first one.
    part : bool
        Whether others may have the rest of the entries.

    Attributes
    ----------
    found : int
        Entries so far.

    Raises
    ------
    InputError
        While iterating, naming the line and its text.
    """

    def __init__(
        self,
        stream: BinaryIO,
        path: str,
        width: int,
        integer: bool,
        entries: int,
        before: int,
        part: bool = False,
    ) -> None:
        self._stream, self._path = stream, path
        self._width, self._integer = width, integer
        self._wanted, self.found, self._line, self._part = entries, 0, before, part
        value = text.INTEGER if integer else text.REAL
        plain = text.PLAIN_INTEGER if integer else text.PLAIN_REAL
        self._plain = _line_of(text.PLAIN_INDEX, plain, width)
        self._readable = _line_of(text.INDEX, value, width)
        self._known_plain: set[bytes] = set()
        self._known_odd: set[bytes] = set()

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        while block := self._stream.read(BLOCK):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if len(rest) > LONGEST_LINE:
                raise self._error(
                    self._line + whole.count(b"\n") + 1,
                    f"is longer than {LONGEST_LINE} characters",
                )
            if newline:
                yield self._checked(whole) + b"\n"
        if rest:
            yield self._checked(rest) + b"\n"
        if self.found < self._wanted and not self._part:
            raise miscounted(self._path, self._wanted, self.found)

    def _checked(self, block: bytes) -> bytes:
        lines = text.shape(block).split(b"\n")
        shapes = set(lines)
        if len(self._known_plain) > _MANY:  # made to have them, or damaged
            self._known_plain.clear()
        odd = shapes - self._known_plain
        if odd - self._known_odd:
            self._judge(odd - self._known_odd, block, lines)
            odd -= self._known_plain
        empty = sum(lines.count(shape) for shape in shapes if _is_empty(shape))
        self.found += len(lines) - empty
        if self.found > self._wanted:
            raise miscounted(self._path, self._wanted, self.found)
        self._line += len(lines)
        if not odd:
            return block
        comments = {shape for shape in odd if _is_comment(shape)}
        if comments:
            block = _COMMENT.sub(b"", block)
        return text.plain(block, b"\n".join(odd - comments))

    def _judge(self, shapes: set[bytes], block: bytes, lines: list[bytes]) -> None:
        """Sort new shapes into those known; raise at the first line that is none."""
        plain = {shape for shape in shapes if self._plain.fullmatch(shape)}
        self._known_plain |= plain
        odd = {s for s in shapes - plain if self._readable.fullmatch(s) or _is_comment(s)}
        self._known_odd |= odd
        wrong = shapes - plain - odd
        if wrong:
            place = min(map(lines.index, wrong))
            line = next(islice(block.split(b"\n"), place, None)).decode("latin-1")
            problem, remedy = self._why(line)
            raise self._error(
                self._line + place + 1, f"{problem} (the line is {cut(line)!r})", remedy
            )

    def _why(self, line: str) -> tuple[str, str]:
        words = _WORD.findall(line.rstrip("\r"))
        if len(words) != self._width:
            remedy = f"Each line has {self._width}, and nothing else."
            if (len(words), self._width) == (3, 2):
                remedy = "Where there are values, the header says real."
            elif (len(words), self._width) == (2, 3):
                remedy = "Where there are no values, the header says pattern."
            return f"there are {len(words)} numbers instead of {self._width}", remedy
        values = 0 if self._width == 2 else 1
        remedy = "Correct the line."
        for word in words[: self._width - values]:
            if problem := text.why_not_index(word):
                return problem, "Rows and columns are whole numbers that count from 1."
        for word in words[self._width - values :]:
            if problem := text.why_not_number(word, self._integer):
                if "header" in problem:
                    remedy = "Write real in the header."
                elif "finite" in problem:
                    remedy = "Every stored value must be finite."
                return problem, remedy
        return "there are odd characters between the numbers", "Separate them by blanks."

    def _error(self, line: int, problem: str, remedy: str = "") -> InputError:
        return InputError(
            problem, file=self._path, field=f"line {line}", remedy=remedy or _COMPLETE
        )


def miscounted(path: str, wanted: int, found: int) -> InputError:
    """The error about a file with more or fewer entries than its header announces."""
    there = "more" if found > wanted else found
    return InputError(
        f"the header announces {wanted} entries, and there are {there}",
        file=path,
        remedy=_COMPLETE,
    )


def line_of_entry(
    stream: BinaryIO, before: int, entry: int | None, number: int | None
) -> tuple[int, str]:
    """Number and text of a line: that of an entry (counted from 0), or the one of that number.

    `before` lines are the header, and every line has been checked.
    """
    place, text_there = 0, ""
    for place, line in enumerate(stream, 1):
        text_there = line.decode("latin-1").strip()
        if number is not None:
            if place == number:
                break
        elif place > before and text_there and not text_there.startswith("%"):
            if entry == 0:
                break
            entry = None if entry is None else entry - 1
    return place, text_there


def cut(line: str) -> str:
    """A line short enough for a message."""
    line = line.strip(" \t\r\n")
    return line if len(line) <= 80 else line[:77] + "..."


def _line_of(index: bytes, value: bytes, width: int) -> re.Pattern[bytes]:
    words = {1: [value], 2: [index] * 2, 3: [index, index, value]}[width]
    return re.compile(rb"[ \t]*(?:" + rb"[ \t]+".join(words) + rb"[ \t]*)?\r?")


def _is_empty(shape: bytes) -> bool:
    return not shape.strip(b" \t\r") or _is_comment(shape)


def _is_comment(shape: bytes) -> bool:
    return shape.lstrip(b" \t").startswith(b"%")
