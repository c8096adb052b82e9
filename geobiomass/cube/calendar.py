"""The calendar months of users' data, from dates or numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.schema import CubeError


def with_months(image: xr.DataArray, month: int | Sequence[int] | None) -> xr.DataArray:
    """Return the image with the calendar month of each step as coordinate."""
    if "month" not in image.dims:
        if month is None:
            raise CubeError(
                f"A cube needs a time axis called month, time or t, got {image.dims}; "
                "for one image say which month it is of, gb.as_cube(data, month=7)."
            )
        image = image.drop_vars("month", errors="ignore").expand_dims("month")
    if month is not None:
        months = np.atleast_1d(np.asarray(month))
        if months.shape != (image.sizes["month"],):
            raise CubeError(
                f"month must have a calendar month for each of {image.sizes['month']} "
                f"steps, got {months.tolist()}."
            )
    else:
        months = _calendar_months(image)
    return image.drop_vars("month", errors="ignore").assign_coords(month=months)


def _calendar_months(image: xr.DataArray) -> npt.NDArray[np.int64]:
    if "month" not in image.coords:
        raise CubeError(
            "The time axis has no coordinate: give the calendar months, "
            "gb.as_cube(data, month=[9, 10, ...])."
        )
    values = image["month"]
    if np.issubdtype(values.dtype, np.datetime64):
        _check_one_a_month(values)
        return cast(npt.NDArray[np.int64], values.dt.month.values.astype(np.int64))
    if np.issubdtype(values.dtype, np.integer):
        return cast(npt.NDArray[np.int64], values.values.astype(np.int64))
    raise CubeError(
        f"The time axis must hold dates or calendar months, got {values.dtype}."
    )


def _check_one_a_month(times: xr.DataArray) -> None:
    dates = [str(date) for date in times.values.astype("datetime64[M]")]
    often = {date: n for date, n in Counter(dates).items() if n > 1}
    if often:
        date, count = max(often.items(), key=lambda pair: pair[1])
        raise CubeError(
            f"A cube has one image per month, got {count} dates in {date}; compose "
            "them, data.resample(time='MS').median(), or use gb.from_stac, which also "
            "leaves out clouds."
        )
