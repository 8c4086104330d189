"""Messages of one kind have tags that no other kind has, all of them in one place."""

from __future__ import annotations

import re
from pathlib import Path

import hpc_sla
from hpc_sla.messages import tags

MOST = 32767
"""The largest tag that every MPI has (MPI 4.1, 9.1.2)."""


def test_no_two_kinds_have_a_tag_in_common():
    kinds = [value for name, value in vars(tags).items() if name.isupper()]
    each = [tag for kind in kinds for tag in ([kind] if isinstance(kind, int) else kind)]
    assert len(kinds) == 5
    assert len(set(each)) == len(each)
    assert min(each) > 0 and max(each) <= MOST


def test_nobody_has_a_tag_of_its_own():
    folder = Path(hpc_sla.__file__).parent
    numbers = re.compile(r"\btag=\d|^_?\w*TAGS? = \d", re.MULTILINE)
    found = [str(p) for p in folder.rglob("*.py") if numbers.search(p.read_text(encoding="utf-8"))]
    assert found == []
