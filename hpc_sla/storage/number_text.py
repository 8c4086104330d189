r"""Numbers written as text: which spellings are read, each to its last character or not at all.

Parsers stop where a number ends for them: of ``1.2.3`` they take 1.2, of the ``0.1-149`` that
Fortran writes for 0.1e-149 they take 0.1. So every spelling is looked at before. There are few of
them: with every digit turned into 0, the lines of a large file have some hundred shapes.
"""

from __future__ import annotations

import re

_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)

INTEGER = rb"[+-]?0+"
INDEX = rb"\+?0+"
_MANTISSA = rb"[+-]?(?:0+\.?0*|\.0+)"
# Fortran leaves the E out where the exponent takes three digits: 0.1-149.
_NO_LETTER = rb"[+-]?(?:0+\.0*|\.0+)[+-]000"
REAL = rb"(?:" + _MANTISSA + rb"(?:[eEdD][+-]?0+)?|" + _NO_LETTER + rb")"
PLAIN_REAL = rb"-?(?:0+\.?0*|\.0+)(?:[eE][+-]?0+)?"
"""What parsers of C and C++ take as it stands."""
PLAIN_INTEGER = rb"-?0+"
PLAIN_INDEX = rb"0+"

_INTEGER, _INDEX, _REAL = (re.compile(kind) for kind in (INTEGER, INDEX, REAL))
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)(\(.*\))?", re.IGNORECASE)

_LETTER_D = bytes.maketrans(b"dD", b"ee")
_MISSING_E = re.compile(rb"(?<=[0-9.])(?=[+-])")
_LEADING_PLUS = re.compile(rb"(?<![0-9.eE])\+")


def shape(text: bytes) -> bytes:
    """`text` with every digit a 0."""
    return text.translate(_DIGITS)


def plain(text: bytes, shapes: bytes) -> bytes:
    """Numbers, and nothing else, in the spelling that parsers of C take.

    `shapes` has an example of each of their shapes, which are those of REAL, INTEGER or INDEX.
    """
    if b"d" in shapes.lower():
        text, shapes = text.translate(_LETTER_D), shapes.translate(_LETTER_D)
    if _MISSING_E.search(shapes):
        text, shapes = _MISSING_E.sub(b"e", text), _MISSING_E.sub(b"e", shapes)
    return _LEADING_PLUS.sub(b"", text) if _LEADING_PLUS.search(shapes) else text


def why_not_index(text: str) -> str:
    """What is wrong with a row or column; empty where nothing is."""
    if _INDEX.fullmatch(shape(text.encode("latin-1"))):
        return ""
    return f"{text!r} is not a row or column number: a whole number is needed"


def why_not_number(text: str, integer: bool) -> str:
    """What is wrong with a value; empty where nothing is."""
    found = shape(text.encode("latin-1"))
    if (_INTEGER if integer else _REAL).fullmatch(found):
        return ""
    if _NOT_FINITE.fullmatch(text):
        return f"{text!r} is not a finite number"
    if set(text) == {"*"}:
        return f"{text!r} is what Fortran writes for a number too wide for its field"
    if integer and _REAL.fullmatch(found):
        return f"{text!r} is not an integer, and the header announces integers"
    return f"{text!r} is not a number"
