"""The pages of the site, and the ways through it that four new users take from its first page."""

from __future__ import annotations

import os.path
import re

from tests.launch import REPOSITORY

FIRST = "README.md"
DOCUMENTS = [
    FIRST,
    "jobs/README.md",
    *sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("docs/**/*.md")),
]
"""Whose blocks are run. CONTRIBUTING's are the tests' own; tests/storage runs the format page's."""

ENGINEER = ["docs/tutorials/fem_matrix.md", "docs/tutorials/plate.md"]
RESEARCHER = ["docs/tutorials/coefficient.md"]
OPERATOR = ["docs/how-to/cluster.md", "jobs/README.md"]
CONTRIBUTOR = ["docs/how-to/own_method.md", "CONTRIBUTING.md"]
JOURNEYS = {"engineer": ENGINEER, "researcher": RESEARCHER}
"""Those whose commands are run with all others, in a folder of their own."""


def links(page: str) -> list[tuple[str, str]]:
    """File, relative to the repository, and anchor of each link to another file or heading."""
    text = re.sub(r"^```.*?^```$", "", (REPOSITORY / page).read_text(), flags=re.S | re.M)
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            name, _, anchor = target.partition("#")
            folder = os.path.dirname(page)
            found.append((os.path.normpath(os.path.join(folder, name)) if name else page, anchor))
    return found
