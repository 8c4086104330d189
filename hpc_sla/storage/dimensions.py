"""Named dimensions of a result's datasets, as netCDF-4 stores them: xarray reads the file as it is.

Each is an HDF5 dimension scale of its length that holds no values and takes no room.
"""

from __future__ import annotations

from collections.abc import Mapping

import h5py

DIMENSIONS = ("row", "rhs_row", "column", "iteration")
_NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable. {:9d}"


def name_dimensions(file: h5py.File, dimensions: Mapping[str, tuple[str, ...]]) -> None:
    """Give each dataset's axes names out of `DIMENSIONS`, by dataset name."""
    scales: dict[str, h5py.Dataset] = {}
    for dataset, names in dimensions.items():
        item = file[dataset]
        for axis, name in enumerate(names):
            length = item.shape[axis]
            if length == 0:
                continue  # an HDF5 scale of no length means an unlimited one to netCDF
            if name not in scales:
                scales[name] = file.create_dataset(name, shape=(length,), dtype=">f4")
                scales[name].make_scale(_NO_VARIABLE.format(length))
            item.dims[axis].attach_scale(scales[name])
