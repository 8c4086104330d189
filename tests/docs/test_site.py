"""The site builds without a warning; its reference is whole; links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import get_args
from urllib.parse import unquote

import pytest

import hpc_sla
from hpc_sla import nonlinear
from hpc_sla.cli import COMMANDS, exits
from hpc_sla.linear.info import Status
from tests.docs import pages
from tests.launch import REPOSITORY


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    # As scripts/docs.sh has it.
    command = ["sphinx", "-c", "docs", "-W", "--keep-going", "-q", ".", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert " ".join(command[:-1]) in (REPOSITORY / "scripts/docs.sh").read_text().replace(
        '"$@" ', ""
    )
    return folder


class Page(HTMLParser):
    """What can be linked to, and what is, in a page of the site."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors, self.links = set(), set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.anchors.add(given.get("id") or "")
        for name in ("href", "src"):
            if link := given.get(name):
                self.links.add(link)


def test_every_link_of_the_site_leads_somewhere(site):
    found = {path: Page(path.read_text()) for path in site.glob("**/*.html")}
    assert len(found) > 45
    broken = []
    for path, page in found.items():
        for link in page.links:
            if re.match(r"[a-z]+:|//", link):
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / unquote(name.partition("?")[0])).resolve() if name else path
            there = target.exists() and (not anchor or anchor in found[target].anchors)
            broken += [] if there else [(path.name, link)]
    assert not broken


def test_every_public_name_is_in_the_reference(site):
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as file:
        known = InventoryFile.load(file, "", lambda base, name: name)
    names = set().union(*(known[kind] for kind in known if kind.startswith("py:")))
    assert not {f"hpc_sla.{name}" for name in hpc_sla.__all__} - names
    assert {"hpc_sla.DSparseMatrix.from_scipy", "hpc_sla.problems.make"} <= names


def test_every_command_is_in_the_reference(site):
    text = (site / "docs" / "reference" / "commands.html").read_text()
    for name in COMMANDS:
        assert f"cmdoption-python-m-hpc_sla-{name}-" in text or f">{name}<" in text, name
    assert "--stall-timeout" in text


def listed(heading: str) -> list[str]:
    """First cells of the tables under a heading of the page on statuses."""
    text = (REPOSITORY / "docs" / "reference" / "statuses.md").read_text()
    part = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `?([\w]+)`? \|", part, re.M)


def test_the_page_on_statuses_has_them_all():
    assert set(listed("What a status means")) == {*get_args(Status), *nonlinear.MEANINGS}
    assert [int(code) for code in listed("Exit codes") if code.isdigit()] == list(exits.MEANINGS)


ELSEWHERE = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]


@pytest.mark.parametrize(
    "page",
    [
        *ELSEWHERE,
        *sorted(str(p.relative_to(REPOSITORY)) for p in REPOSITORY.glob("*/**/README.md")),
    ],
)
def test_links_hold_where_the_page_lies(page):
    """As a forge shows it: README files, those that the site leaves out among them."""
    for name, _ in pages.links(page):
        assert (REPOSITORY / name).exists(), name


def test_paths_that_scripts_and_messages_name_are_there():
    for folder in ("hpc_sla", "scripts", "jobs", "examples"):
        for path in (REPOSITORY / folder).glob("**/*"):
            if path.suffix in (".py", ".sh", ".sbatch"):
                for name in re.findall(r"\bdocs/[\w/-]+\.(?:md|png|py)\b", path.read_text()):
                    assert (REPOSITORY / name).exists(), (path, name)
