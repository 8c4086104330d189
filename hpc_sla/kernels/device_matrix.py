"""A rank-local matrix on a GPU, in the form that moves the fewest bytes a product."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hpc_sla.kernels import device_products
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.device_products import DeviceRows
from hpc_sla.kernels.matrix import Matrix
from hpc_sla.kernels.modes import lasting
from hpc_sla.kernels.slices import Slices

Tensor = torch.Tensor

FEWEST_ROWS = 2048
"""With fewer, a launch costs more than the bytes, and slices take a score of launches to make."""

_WORTH = 0.9
"""What is worth a copy, in bytes of plain CSR: with more there is little to gain."""


class DeviceMatrix:
    """A pattern and its values: in plain CSR, or in slices, which are a copy. Local.

    The form follows from row lengths, columns and how many values are distinct. Slices are made
    once a pattern; the values are laid into them anew by `of` for each set of values.

    Attributes
    ----------
    form : {"csr", "sliced", "coded 8", "coded 16"}
    bytes : int
        What a product reads of it.
    n_rows : int
    """

    def __init__(
        self,
        pattern: CsrPattern,
        values: Tensor | None,
        laid: tuple[Tensor, Tensor | None] | None,
    ) -> None:
        self.pattern, self._values, self.n_rows = pattern, values, pattern.n_rows
        self._laid = laid
        self.form = "csr"
        if laid is not None:
            codes, dictionary = laid
            s = self._slices
            self.form = "sliced" if dictionary is None else f"coded {8 * codes.element_size()}"
            self.bytes = s.bytes + codes.numel() * codes.element_size()
            columns = (s.starts, s.places, s.near, s.bases, s.far, s.order)
            self._rows = DeviceRows("sliced_rows", (*columns, *laid), pattern._cache)
        else:
            assert values is not None
            self.bytes = _plain_bytes(pattern, values)

    @classmethod
    def of(cls, pattern: CsrPattern, values: Tensor, keep: bool = True) -> DeviceMatrix:
        """The matrix in the form that suits it. Waits for the device.

        Parameters
        ----------
        pattern : CsrPattern
        values : torch.Tensor [nnz]
            What becomes of them later is not seen by slices: see `holds`.
        keep : bool
            Whether to keep them beside slices, for products with several vectors at once.
        """
        values = values.detach()
        laid = None
        if pattern.n_rows >= FEWEST_ROWS and device_products.looks(values):
            if "slices" not in pattern._cache:
                with lasting():
                    pattern._cache["slices"] = Slices.of(pattern.indptr, pattern.indices)
            s = pattern._cache["slices"]
            if isinstance(s, Slices):
                laid = _lay(s, pattern, values)
        return cls(pattern, values if keep or laid is None else None, laid)

    @classmethod
    def alone(cls, pattern: CsrPattern, values: Tensor) -> DeviceMatrix | None:
        """As `of`, where that is slices: in place of the pattern's columns, which it lets go.

        None where it is no slices, and nothing has changed.
        """
        found = cls.of(pattern, values, keep=False)
        if found._laid is None:
            return None
        pattern.shed()
        return found

    def _again(self, codes: Tensor, dictionary: Tensor | None) -> DeviceMatrix:
        return DeviceMatrix(self.pattern, None, (codes, dictionary))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the values in slices."""
        codes, dictionary = self._slots
        return (codes if dictionary is None else dictionary).dtype

    @property
    def _slots(self) -> tuple[Tensor, Tensor | None]:
        assert self._laid is not None
        return self._laid

    @property
    def _slices(self) -> Slices:
        slices = self.pattern._cache["slices"]
        assert isinstance(slices, Slices)
        return slices

    def mapped(self, function: Callable[[Tensor], Tensor]) -> DeviceMatrix:
        """The slices of other values: of each of these, by itself, another. Local."""
        codes, dictionary = self._slots
        if dictionary is None:
            return self._again(function(codes), None)
        return self._again(codes, function(dictionary))

    def values(self) -> Tensor:
        """Those in slices, written out: [nnz]. Local."""
        return self._slices.entries(self.pattern.indptr, *self._slots)

    def listed(self) -> tuple[Tensor, Tensor | None]:
        """Those in slices, written out: [nnz] places in a list of the distinct ones, and the list.

        The values themselves, and None, where there is no list. Local.
        """
        codes, dictionary = self._slots
        return self._slices.entries(self.pattern.indptr, codes, None), dictionary

    def diagonal(self) -> Tensor:
        """The diagonal of what is in slices, 0 where none is stored: [n_rows]. Local."""
        return self._slices.diagonal(self.pattern.indptr, *self._slots)

    def beside(self) -> Tensor:
        """Which rows have a nonzero in slices that is not on the diagonal: bool [n_rows]. Local."""
        return self._slices.beside(self.pattern.indptr, *self._slots)

    def largest(self) -> float:
        """The largest magnitude in slices, NaN where there is one. Waits for the device."""
        codes, dictionary = self._slots
        low, high = (codes if dictionary is None else dictionary).aminmax()
        return float(torch.maximum(low.abs(), high.abs()))

    @property
    def matrix(self) -> Matrix | None:
        """None: compiled loops of the CPU cannot take it."""
        return None

    def holds(self, values: Tensor) -> bool:
        """Whether these [nnz] are those it multiplies by, to the bit. Waits for the device."""
        if self._laid is None:
            return self._values is not None and self._values.data_ptr() == values.data_ptr()
        codes, dictionary = self._laid
        if values.dtype != (codes if dictionary is None else dictionary).dtype:
            return False
        return self._slices.same(self.pattern.indptr, values, *self._laid)

    def on_device(self, x: Tensor) -> DeviceRows | None:
        """As a launch multiplies vectors like x; None where `matmul` goes by the library. Local."""
        if self._laid is not None:
            return self._rows if device_products.serves(x) else None
        assert self._values is not None
        return self.pattern.device_rows(self._values, x)

    def matmul(self, x: Tensor, out: Tensor) -> None:
        """`out = A x`, without allocating. Local; not differentiable.

        Of several vectors with values that are in slices alone: these are written out at first.
        """
        rows = self.on_device(x)
        if rows is not None:
            rows(x, out)
            return
        if self._values is None:
            with lasting():
                self._values = self.values()
        self.pattern.matmul(self._values, x, out)


def _plain_bytes(pattern: CsrPattern, values: Tensor) -> int:
    # Columns that have been let go are counted, not written out: they are 32 bits wide.
    parts = (pattern.indptr, values)
    return 4 * pattern.nnz + sum(t.numel() * t.element_size() for t in parts)


def _lay(s: Slices, pattern: CsrPattern, values: Tensor) -> tuple[Tensor, Tensor | None] | None:
    """The values as they lie in slices, or None where plain CSR takes about as few bytes."""
    most = _WORTH * _plain_bytes(pattern, values)
    if s.bytes + s.slots > most:
        return None
    with lasting():
        coded = s.coded(pattern.indptr, values)
        if coded is not None and s.bytes + coded[0].numel() * coded[0].element_size() <= most:
            return coded
        if s.bytes + s.slots * values.element_size() > most:
            return None
        return s.spread(pattern.indptr, values), None
