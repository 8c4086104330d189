"""What is handed to PyPI, containers and conda has all that it needs."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "scripts" / "package"
tomllib = pytest.importorskip("tomllib")
yaml = pytest.importorskip("yaml")


def project() -> dict:
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)


def conda(name: str) -> dict:
    return yaml.safe_load((PACKAGE / "conda" / name).read_text())


@pytest.mark.slow
def test_the_source_distribution_is_complete(tmp_path: Path) -> None:
    """Every module, every C source and header that a wheel is compiled from."""
    # setuptools keeps notes beside the sources, and takes them for the truth the next time.
    copy = tmp_path / "copy"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--", "hpc_sla", "*.toml", "*.md", "LICENSE"],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=True,
    ).stdout.rstrip("\0").split("\0")  # fmt: skip
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", "from setuptools.build_meta import *; print(build_sdist('..'))"],
        cwd=copy, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / done.stdout.split()[-1]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    ours = {name for name in tracked if name.startswith("hpc_sla/")}
    assert {name for name in ours if not name.endswith(".md")} <= held
    assert {"README.md", "LICENSE", "pyproject.toml", "hpc_sla/py.typed"} <= held


def test_extras_named_in_documents_exist() -> None:
    extras = project()["project"]["optional-dependencies"]
    texts = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *PACKAGE.rglob("*"),
        *ROOT.glob("hpc_sla/**/*.py"),
    ]
    named = {
        extra
        for path in texts
        if path.is_file()
        for found in re.findall(r"(?:hpc_sla|clone|\.)\[([a-z,]+)\]'?\"?", path.read_text())
        for extra in found.split(",")
    }
    assert {"mpich", "mesh", "plot"} <= named <= extras.keys()


def test_conda_packages_are_built_for_the_pythons_of_the_wheels() -> None:
    """Named with their builds, or `match(python, ...)` is always true and all share a file name."""
    pythons = [spec.split() for spec in conda("variants.yaml")["python"]]
    assert all(len(spec) == 2 for spec in pythons)
    versions = [version.removesuffix(".*") for version, _ in pythons]
    start = "Programming Language :: Python :: "
    classifiers = [name for name in project()["project"]["classifiers"] if name.startswith(start)]
    assert [start + version for version in versions] == classifiers
    wheels = project()["tool"]["cibuildwheel"]["build"]
    assert [f"cp{version.replace('.', '')}-*" for version in versions] == wheels


def test_the_conda_package_is_made_of_what_a_wheel_is() -> None:
    """Not of a clone's history and results; and the wheel alone says which commands there are."""
    recipe = conda("recipe.yaml")
    about = project()["project"]
    wanted = {"pyproject.toml", "hpc_sla/**", about["readme"], *about["license-files"]}
    assert set(recipe["source"]["filter"]["include"]) == wanted
    assert all((ROOT / name.removesuffix("/**")).exists() for name in wanted)
    assert "entry_points" not in recipe["build"].get("python", {})
    # rattler-build's, where it is started.
    assert "/output/" in (ROOT / ".gitignore").read_text().split()


def test_the_conda_package_is_tried_as_a_wheel_is_and_with_an_mpi_that_starts_anywhere() -> None:
    (tried,) = [test for test in conda("recipe.yaml")["tests"] if "script" in test]
    assert set(project()["tool"]["cibuildwheel"]["test-command"]) <= set(tried["script"])
    assert tried["requirements"]["run"] == ["mpich"]


def test_libraries_that_the_loops_call_are_named_to_the_linker() -> None:
    """They were found only where the interpreter itself had loaded them."""
    (loops,) = project()["tool"]["setuptools"]["ext-modules"]
    texts = [(ROOT / name).read_text() for name in loops["sources"] + loops["depends"]]
    assert any("#include <math.h>" in text for text in texts) and loops["libraries"] == ["m"]


def test_the_conda_recipe_follows_the_project() -> None:
    """The same version and the same requirements, under conda's names."""
    text = (PACKAGE / "conda" / "recipe.yaml").read_text()
    about = project()["project"]
    assert f"version: {about['version']}\n" in text
    # rattler-build refuses to guess these, and takes them from beside the recipe.
    variants = (PACKAGE / "conda" / "variants.yaml").read_text()
    for function, language in re.findall(r"\$\{\{ (compiler|stdlib)\(\"(\w+)\"\) \}\}", text):
        assert re.search(rf"^{language}_{function}:$", variants, re.MULTILINE)
    run = text[text.index("  run:") : text.index("tests:")]
    for requirement in about["dependencies"]:
        wanted = requirement.partition(";")[0].replace("torch", "pytorch").strip()
        name, relation, version = re.fullmatch(r"([\w-]+)([>=]*)([\d.]*)", wanted).groups()  # type: ignore[union-attr]
        assert re.search(
            rf"\b{name}{f' {relation}{version}' if relation else ''}$", run, re.MULTILINE
        )


def sections_of_the_definition() -> dict[str, list[list[str]]]:
    """Of ``hpc_sla.def``: the words of each line under each ``%section``."""
    text = (PACKAGE / "hpc_sla.def").read_text()
    parts = re.split(r"^%(\w+)$", text, flags=re.MULTILINE)[1:]
    bodies = zip(parts[::2], parts[1::2], strict=True)
    return {name: [line.split() for line in body.split("\n") if line] for name, body in bodies}


def test_the_definition_copies_what_the_dockerfile_does() -> None:
    """Apptainer copies the first word of a line to the second, and drops others in silence."""
    files = sections_of_the_definition()["files"]
    assert files and all(len(line) == 2 for line in files)
    assert all((ROOT / source).exists() for source, _ in files)
    assert all(f"/src/{source}" == target for source, target in files)
    allowed = (PACKAGE / "Dockerfile.dockerignore").read_text().split()
    assert {source for source, _ in files} == {name[1:] for name in allowed if name[0] == "!"}


def test_both_containers_install_and_check_the_same() -> None:
    dockerfile = (PACKAGE / "Dockerfile").read_text()
    steps = sections_of_the_definition()
    for line in steps["test"]:
        assert " ".join(line) in dockerfile
    (install,) = [line for line in steps["post"] if line[0] == "bash"]
    assert " ".join(install) in dockerfile
    (tools,) = [line for line in steps["post"] if line[:2] == ["apt-get", "install"]]
    assert " ".join(tools) in dockerfile
