"""What there is of a kind, by name: listed without loading it, and loaded on first use."""

from __future__ import annotations

import ast
import sys
import tokenize
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from hpc_sla.errors import InputError
from hpc_sla.kernels.loading import few_looks_at_files
from hpc_sla.precond.options import options_of, parse_options


class Registry(Mapping[str, str]):
    """Names, each with when to use it: the first line of the docstring of its module.

    Parameters
    ----------
    package : str
        Where the modules are, each of the name that it makes known.
    classes : dict of str to str
        The class of each module.
    kind, field : str
        What they are, and the argument that asks for one, as errors say it.
    **others : str
        Names that are no class, with what to say of them.
    """

    def __init__(
        self, package: str, classes: Mapping[str, str], kind: str, field: str, **others: str
    ) -> None:
        self.package, self.classes, self.others = package, dict(classes), others
        self.kind, self.field = kind, field
        self._loaded: dict[str, Any] = {}

    def load(self, name: str) -> Any:
        """The class of that name."""
        if name not in self._loaded:
            module = import_module(f"{self.package}.{name}")
            self._loaded[name] = getattr(module, self.classes[name])
        return self._loaded[name]

    def make(self, text: str) -> Any:
        """What a text such as `gmres:restart=50` asks for, options after the name. Local.

        Raises
        ------
        InputError
            An unknown name or option, naming those there are, or a value that does not fit it.
        """
        name, _, options = text.partition(":")
        if name not in self.classes:
            raise self.unknown(name)
        made = self.load(name)
        return made(**parse_options(name, options, options_of(made.__init__), self.field))

    def unknown(self, asked: Any, or_else: str = "") -> InputError:
        """The error of one that is asked for and is none of these."""
        return InputError(
            f"unknown {self.kind} {asked!r}",
            field=self.field,
            remedy=f"Choose one of {', '.join(self)}{or_else}",
        )

    def exports(self) -> dict[str, str]:
        """The module of each class, for `lazily`."""
        return {kind: f"{self.package}.{name}" for name, kind in self.classes.items()}

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


def lazily(
    package: str, exports: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose names are loaded on first use.

    Parameters
    ----------
    package : str
    exports : dict of str to str
        The module of each name.
    """
    names = sorted(exports)

    def load(name: str) -> Any:
        if name in exports:
            with few_looks_at_files():  # it may be the first that needs torch
                module = import_module(exports[name])
            # Python asks here no more: each time took a tenth of a small solve.
            found = vars(sys.modules[package])[name] = getattr(module, name)
            return found
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load, lambda: sorted({*vars(import_module(package)), *names}), names


@cache
def _first_line(module: str) -> str:
    """What a module's docstring begins with; empty where its source is not there."""
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    # Read as far as that, not imported: most need torch.
    with tokenize.open(spec.origin) as source:
        for token in tokenize.generate_tokens(source.readline):
            if token.type == tokenize.STRING:
                return str(ast.literal_eval(token.string)).partition("\n")[0]
    return ""
