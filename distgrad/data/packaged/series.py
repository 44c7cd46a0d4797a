"""Time series that come inside packages: sunspots, carbon dioxide."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.data.missing import needed

Array = np.ndarray[Any, Any]

_REMEDY = "pip install 'distgrad[datasets]'"


def sunspots() -> tuple[Array, Array]:
    """Return the yearly numbers of sunspots from 1700 to 2008, which statsmodels brings.

    Returns
    -------
    years : float64, shape (309,)
    numbers : float64, shape (309,)

    Raises
    ------
    MissingDataError
        If statsmodels is not installed.
    """
    data = needed("statsmodels.api", "the sunspots come", _REMEDY).datasets.sunspots.load_pandas()
    table = data.data
    return np.asarray(table["YEAR"], np.float64), np.asarray(table["SUNACTIVITY"], np.float64)


def carbon_dioxide() -> tuple[Array, Array]:
    """Return the weekly carbon dioxide at Mauna Loa from 1958 to 2001, which statsmodels brings.

    Returns
    -------
    years : float64, shape (2284,)
        Weeks, counted in years of 365.25 days since the first one.
    parts : float64, shape (2284,)
        Parts per million by volume; weeks without a measurement lie on the straight line between
        their neighbours.

    Raises
    ------
    MissingDataError
        If statsmodels is not installed.
    """
    table = needed("statsmodels.api", "the series comes", _REMEDY).datasets.co2.load_pandas().data
    parts = np.asarray(table["co2"], np.float64)
    days = (table.index - table.index[0]).days.to_numpy(np.float64)
    known = np.isfinite(parts)
    return days / 365.25, np.interp(days, days[known], parts[known])
