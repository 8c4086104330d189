"""What there is of a kind, by name: told without loading it."""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any


class Registry(Mapping[str, str]):
    """Names, each with when to use it: the first line of the docstring of its module.

    Parameters
    ----------
    package : str
        Where the modules are, each of the name that it makes known.
    classes : dict of str to str
        The class of each module.
    **others : str
        Names that are no class, with what to say of them.
    """

    def __init__(self, package: str, classes: Mapping[str, str], **others: str) -> None:
        self.package, self.classes, self.others = package, dict(classes), others

    def load(self, name: str) -> Any:
        """The class of that name."""
        return getattr(import_module(f"{self.package}.{name}"), self.classes[name])

    def __getitem__(self, name: str) -> str:
        said = self.others.get(name) or _first_line(f"{self.package}.{self._known(name)}")
        return said.rstrip(".")

    def _known(self, name: str) -> str:
        if name not in self.classes:
            raise KeyError(name)
        return name

    def __iter__(self) -> Iterator[str]:
        return iter((*self.others, *self.classes))

    def __len__(self) -> int:
        return len(self.others) + len(self.classes)


@cache
def _first_line(module: str) -> str:
    """Of a module's docstring, which it begins with; empty where its source is not there."""
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    # Read as far as that, not imported: most need torch.
    with tokenize.open(spec.origin) as source:
        for token in tokenize.generate_tokens(source.readline):
            if token.type == tokenize.STRING:
                return str(ast.literal_eval(token.string)).partition("\n")[0]
    return ""
