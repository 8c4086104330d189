"""The shape of the package: what lies where, what imports what, and what is said of it.

Read from the source, without importing it. What `docs/architecture.md` says is held to the same.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest

from tests.launch import REPOSITORY

ROOMS = (
    "cli", "report", "reference", "problems", "sparse_tensor", "nonlinear", "eigen", "linear",
    "precond", "direct", "adjoint", "checkpoint", "sparse", "distributed", "partition", "storage",
    "messages", "kernels", "observe",
)  # fmt: skip
"""From the top down: a room imports from those after it only."""
LOOSE = {"__init__", "__main__", "errors", "hashing"}

OPTIONAL = {
    # Required, but for `World.serial` and the commands of one process, which need no MPI library.
    "mpi4py",
    "pymetis", "cupy", "cupy_backends", "cupyx", "cvxopt", "eigenpy", "matplotlib", "nvmath",
    "petsc4py", "pyamg", "pyarrow", "triton", "xarray", "tomli",
}  # fmt: skip
"""Packages whose import within a function needs no reason beside it."""

UPWARD: dict[str, str] = {}
"""Modules that import upward, and why: none."""


@dataclass(frozen=True)
class Import:
    """`target` is a module of the package, or the first name of another; by `line` of `source`."""

    source: str
    target: str
    line: int
    inner: bool
    """Within a function."""


@dataclass(frozen=True)
class Module:
    """What is looked at of one file."""

    imports: list[tuple[str, int, bool]]
    """Name, line, and whether within a function."""
    classes: list[str]
    texts: list[tuple[str, int]]
    """Docstrings, those of attributes among them, and their lines."""
    names: set[str]
    """Whatever is defined: classes, functions, attributes, and variables outside of functions."""


def _defined(node: ast.AST, inner: bool) -> Iterator[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    for target in targets:
        if isinstance(target, ast.Name) and not inner:
            yield target.id
        elif isinstance(target, ast.Attribute):
            yield target.attr


@cache
def module(text: str) -> Module:
    found = Module([], [], [], set())

    def walk(node: ast.AST, inner: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.imports.extend((alias.name, child.lineno, inner) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                names = [f"{child.module}.{alias.name}" for alias in child.names]
                found.imports.extend((name, child.lineno, inner) for name in names)
            elif isinstance(child, ast.Expr):
                if isinstance(child.value, ast.Constant) and isinstance(child.value.value, str):
                    found.texts.append((child.value.value, child.lineno))
            elif isinstance(child, ast.ClassDef):
                found.classes.append(child.name)
            found.names.update(_defined(child, inner))
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                walk(child, inner or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    walk(ast.parse(text), False)
    return found


class Package:
    """The package as its source says it is."""

    def __init__(self, sources: dict[str, str]) -> None:
        self.sources = sources
        self.modules = {name: module(text) for name, text in sources.items()}
        self.imports = [
            Import(source, self._module(name), line, inner)
            for source, found in self.modules.items()
            for name, line, inner in found.imports
        ]

    def _module(self, name: str) -> str:
        """The module that `name`, or the last part of it, is in; the package of another."""
        if name.partition(".")[0] != "hpc_sla":
            return name.partition(".")[0]
        while name not in self.sources:
            name = name.rpartition(".")[0]
        return name


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def upward(package: Package) -> Iterator[str]:
    """Imports go downward, those within functions and those for types alone included."""
    height = {name: len(ROOMS) - i for i, name in enumerate(ROOMS)}
    height |= {"errors": 0, "hashing": 0, "__main__": len(ROOMS) + 1}
    for found in package.imports:
        # The package itself is a name that all may say: it has the version, and loads nothing.
        if room(found.source) in ("__init__",) or room(found.target) in ("__init__",):
            continue
        if not found.target.startswith("hpc_sla"):
            continue
        above = height[room(found.source)] < height[room(found.target)]
        if above and found.source not in UPWARD:
            yield f"{found.source}: imports {found.target}, line {found.line}"


def circles(package: Package) -> Iterator[str]:
    """No module imports itself by way of others, wherever the imports stand."""
    targets = defaultdict(set)
    for found in package.imports:
        if found.target in package.sources and found.target not in (found.source, "hpc_sla"):
            targets[found.source].add(found.target)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for target in targets[todo.pop()] - seen:
                seen.add(target)
                todo.append(target)
        return seen

    beyond = {name: reached(name) for name in package.sources}
    for name in package.sources:
        if name in beyond[name]:
            others = sorted(other for other in beyond[name] if name in beyond[other])
            yield f"{name}: in a circle of {', '.join(others)}"


def loose(package: Package) -> Iterator[str]:
    """Every module is in a room that is in the list."""
    for name in package.sources:
        if name != "hpc_sla" and room(name) not in (*ROOMS, *LOOSE):
            yield f"{name}: in no room"


def unexplained(package: Package) -> Iterator[str]:
    """An import within a function has its reason beside it, or above it and its neighbours."""
    for found in package.imports:
        if found.inner and found.target not in OPTIONAL:
            lines = package.sources[found.source].splitlines()
            if not _explained(lines, found.line - 1):
                yield f"{found.source}: line {found.line}: {lines[found.line - 1].strip()}"


_BETWEEN = re.compile(
    r"\s*($|import |from \S+ import |[\w, ]+,$|\)$|(if|elif|else|try|except|with)\b.*:$)"
)
"""What may stand between an import and the reason that serves a block of them."""


def _explained(lines: list[str], line: int) -> bool:
    while not lines[line].lstrip().startswith("#"):
        code, _, comment = lines[line].partition("#")
        if re.sub(r"^ (noqa|type: ignore)\S*( [A-Z]\d+,?)*( - )?", "", comment).strip():
            return True
        if not _BETWEEN.match(code.rstrip()):
            return False
        line -= 1
    return True


def twice(package: Package) -> Iterator[str]:
    """A class has a name of its own in the whole package."""
    where = defaultdict(list)
    for name, found in package.modules.items():
        for kind in found.classes:
            where[kind].append(name)
    for name, modules in where.items():
        if len(modules) > 1:
            yield f"{name}: a class of {', '.join(sorted(modules))}"


def beginning_with_of(package: Package) -> Iterator[str]:
    """The first line of a docstring stands alone: it does not go on from the name."""
    for name, found in package.modules.items():
        for text, line in found.texts:
            if re.match(r"\s*Of\b", text):
                yield f"{name}: line {line}: {text.splitlines()[0]}"


RULES = [upward, circles, loose, unexplained, twice, beginning_with_of]


@cache
def package() -> Package:
    sources = {}
    for path in sorted((REPOSITORY / "hpc_sla").rglob("*.py")):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        sources[name.removesuffix(".__init__")] = path.read_text()
    return Package(sources)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule):
    assert list(rule(package())) == []


PLANTED = {
    "upward": {"hpc_sla.kernels.planted": "from hpc_sla.linear.cg import ConjugateGradients"},
    "upward in a function": {
        "hpc_sla.kernels.planted": "def f():\n    import hpc_sla.linear.cg  # a reason"
    },
    "upward for types": {
        "hpc_sla.errors": "if TYPE_CHECKING:\n    from hpc_sla.linear.info import SolveInfo"
    },
    "circles": {
        "hpc_sla.observe.one": "from hpc_sla.observe.two import a",
        "hpc_sla.observe.two": "from hpc_sla.observe import three",
        "hpc_sla.observe.three": "if TYPE_CHECKING:\n    from hpc_sla.observe.one import b",
    },
    "loose": {"hpc_sla.planted": ""},
    "unexplained": {"hpc_sla.cli.planted": "def f():\n    x = 1\n    import scipy.sparse as sp"},
    "unexplained, of a comment further up": {
        "hpc_sla.cli.planted": "def f():\n    # a reason\n    x = 1\n    from scipy import sparse"
    },
    "unexplained, but for the linter": {
        "hpc_sla.cli.planted": "def f():\n    import scipy  # noqa: F401"
    },
    "twice": {"hpc_sla.kernels.planted": "class DSparseMatrix:\n    pass"},
    "beginning_with_of": {"hpc_sla.kernels.planted": 'def f():\n    """Of a planted fault."""'},
    "beginning_with_of an attribute": {"hpc_sla.kernels.planted": 'A = 1\n"""Of one."""'},
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name):
    rule = next(rule for rule in RULES if rule.__name__ == re.split("[ ,]", name)[0])
    planted = PLANTED[name]
    before = Counter(rule(package()))
    after = Counter(rule(Package(package().sources | planted)))
    assert after - before, "nothing was found"


EXPLAINED = [
    "def f():\n    import scipy  # slow to load",
    "def f():\n    # slow to load\n    import scipy\n    import h5py",
    "def f():\n    # slow to load\n    from scipy import (\n        a,\n    )\n\n    import h5py",
    "def f():\n    # slow to load\n    if a:\n        import scipy",
    "def f():\n    import scipy  # noqa: F401 - what it registers is needed",
    "def f():\n    import scipy  # slow to load, both\n    import h5py",
    "def f():\n    from mpi4py import MPI",
]


@pytest.mark.parametrize("text", EXPLAINED)
def test_a_reason_is_found(text):
    assert list(unexplained(Package({"hpc_sla.cli.planted": text}))) == []


PAGE = REPOSITORY / "docs" / "architecture.md"


def test_the_page_lists_the_rooms():
    listed = re.findall(r"^\| `(\w+)/` \|", PAGE.read_text(), re.MULTILINE)
    assert listed == list(ROOMS)
    folders = {path.parent.name for path in (REPOSITORY / "hpc_sla").glob("*/__init__.py")}
    assert folders == set(ROOMS)


def unknown(page: str) -> list[str]:
    """What `page` names in backticks and the package does not have."""
    found = package()
    names = set().union(*(module.names for module in found.modules.values()))
    missing = []
    for text in dict.fromkeys(re.findall(r"`([^`\n]+)`", page)):
        if re.fullmatch(r"[\w./]+/|[\w./]+\.py|tests/\w+", text):
            there = any((REPOSITORY / top / text).exists() for top in ("", "hpc_sla"))
            if not there and not list((REPOSITORY / "hpc_sla").rglob(text.rstrip("/"))):
                missing.append(text)
        elif re.fullmatch(r"[A-Za-z_][\w.]*", text) and text != "logging":
            missing += [text] if not names.issuperset(text.split(".")) else []
    return missing


def test_the_page_names_what_exists():
    assert unknown(PAGE.read_text()) == []
    assert len(re.findall("`", PAGE.read_text())) > 200


def test_what_does_not_exist_is_missed():
    page = "`linear/none.py` and `World.nothing` of `nowhere/`, but `World.agree` in `linear/cg.py`"
    assert unknown(page) == ["linear/none.py", "World.nothing", "nowhere/"]


def test_a_public_name_is_looked_up_once():
    """A look through the package's modules takes as long as a tenth of a small solve."""
    import hpc_sla as hs

    assert hs.solve is vars(hs)["solve"] is vars(hs.linear)["solve"]
