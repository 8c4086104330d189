"""The documentation site: ``bash scripts/docs.sh`` builds it into build/site.

Its sources are this folder and some files around it, so the whole repository is Sphinx's source
folder: ``python -m sphinx -c docs . build/site``. The README is the first page.
"""

from __future__ import annotations

import json
import pkgutil
import re
from typing import Any

from myst_parser.parsers.sphinx_ import MystParser

import hpc_sla

project = "hpc_sla"
author = "the hpc_sla authors"
copyright = author
release = version = hpc_sla.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
# Sources are where they are on a forge, so that links between them are the same there and here.
include_patterns = [
    *("docs/**", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *("jobs/README.md", "partitions/README.md", "scripts/package/README.md"),
]
exclude_patterns = [".*", "build", "dist", "venv"]
root_doc = "README"
smartquotes = False  # options begin with two hyphens
html_theme = "furo"
html_title = f"hpc_sla {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["width.css"]
html_extra_path = ["_root"]  # index.html leads to the first page

# Pages link to each other's headings as they do on a forge: FILE.md#the-heading.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]

# `name` in a docstring is a link where there is such a name, and code where there is none.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [("py:(obj|class)", r"(?!hpc_sla\.).*")]
autodoc_member_order = "bysource"
# Docstrings say types, and shapes with them.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
# Shapes such as [n_owned] are no names to look for.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True

CONTENTS = """
```{toctree}
:hidden:

docs/tutorials/index
docs/how-to/index
docs/reference/index
docs/explanations/index
docs/performance
CONTRIBUTING
CHANGELOG
```
"""


class Notebook(MystParser):
    """A notebook is the Markdown of its cells, and what they printed when it was saved."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: Any) -> None:
        text = []
        for cell in json.loads(inputstring)["cells"]:
            source = "".join(cell["source"])
            text.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
            outputs = [
                out.get("text") or out["data"]["text/plain"] for out in cell.get("outputs", ())
            ]
            printed = "\n".join("".join(lines).strip() for lines in outputs)
            text += [f"```text\n{printed}\n```"] if printed else []
        super().parse("\n\n".join(text), document)


def with_contents(app: Any, name: str, source: list[str]) -> None:
    """Put the site's contents under the README, which has no such markup of its own."""
    if name == "README":
        source[0] += CONTENTS


def plain(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Take stars and bars outside of backticks for what they are, and `.name` for code."""
    # Code may go on in the next line.
    parts = re.split("(``[^`]*``|`[^`]*`)", "\n".join(lines))
    parts[::2] = [re.sub(r"(?<!\*)\*(?!\*)|\|", r"\\\g<0>", part) for part in parts[::2]]
    lines[:] = re.sub(r"(?<!`)(`\.\w[^`]*`)(?!`)", r"`\1`", "".join(parts)).split("\n")
    if what in ("attribute", "property"):
        lines.insert(0, "")  # a colon in the first line would end a type


def plain_help(app: Any, command: Any, lines: list[str]) -> None:
    """Take a bar in the help of an option for a bar, but for those that keep lines apart."""
    for i, line in enumerate(lines):
        if ".. option" not in line:
            mark, rest = re.fullmatch(r"(\s*\| )?(.*)", line).groups(default="")
            lines[i] = mark + rest.replace("|", r"\|")


def unlinked(app: Any, env: Any, node: Any, text: Any) -> Any:
    """What the reference leaves out, but the package has, is code without a link."""
    try:
        pkgutil.resolve_name(f"hpc_sla.{node['reftarget'].removeprefix('hpc_sla.')}")
    except (ImportError, AttributeError, ValueError):
        return None  # a warning
    return text


def setup(app: Any) -> None:
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(Notebook)
    # Before napoleon, which makes markup of sections.
    app.connect("autodoc-process-docstring", plain, priority=400)
    app.connect("sphinx-click-process-options", plain_help)
    app.connect("source-read", with_contents)
    app.connect("missing-reference", unlinked)
