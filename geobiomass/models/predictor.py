"""A model that maps cubes, and is judged, calibrated, explained and exported."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np
import pandas as pd
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.convert import cube_for, need_target
from geobiomass.cube.static_layers import layers_of
from geobiomass.cube.target import in_units_of, settled
from geobiomass.data.fingerprint import data_fingerprint
from geobiomass.data.splits import groups_of
from geobiomass.evaluation.label_errors import tally_for, tell_clipped
from geobiomass.evaluation.metrics import (
    BOOTSTRAP,
    CONFIDENCE,
    Bins,
    add_parts,
    interval_of,
    months_seen,
)
from geobiomass.inference.map_settings import (
    MapOptions,
    MapSettings,
    takes_map_settings,
)
from geobiomass.models.calibration import calibration_of, compare_units, units_of
from geobiomass.models.choice_record import choice_table
from geobiomass.models.learnt_labels import TOLD, KnowsLabels, LearntCount
from geobiomass.models.map_maker import MapMaker
from geobiomass.models.summary import describe_model
from geobiomass.recipes.label_weights import NO_EFFECT
from geobiomass.statistics.conformal import Calibration, check_interval, few_groups
from geobiomass.summary import Summary
from geobiomass.tiles import EVALUATION_BLOCK
from geobiomass.training.setting_names import explain_arguments


@explain_arguments
class Predictor(KnowsLabels, MapMaker):
    """A model that maps cubes; what single models and ensembles have in common.

    Attributes
    ----------
    network, bands, outputs, months, calibration
        As in :class:`.MapMaker`.
    """

    @takes_map_settings()
    def evaluate(
        self,
        cube: xr.Dataset | xr.DataArray,
        *in_order: int | None,
        by: str = "biomass",
        confidence: float = CONFIDENCE,
        bootstrap: int = BOOTSTRAP,
        groups: str | None = None,
        label_errors: bool | None = None,
        **settings: Unpack[MapOptions],
    ) -> pd.DataFrame:
        """Compare the map of a cube with its labels.

        Parameters
        ----------
        cube : xarray.Dataset
            With ``agb``.
        **settings
            The settings of :class:`geobiomass.inference.map_settings.MapSettings`.
        by : "biomass", "predicted" or "months"
            The rows: bins of observed biomass ("0-50", ... Mg/ha), or of another
            target in its units; bins of predicted values; or the number of months in
            which the pixel has any value in the model's bands ("12", "9-11", "5-8",
            "1-4" of twelve).
        confidence : float
            Confidence of the intervals.
        bootstrap : int
            Bootstrap samples of chips, or of blocks of a scene, that intervals are
            computed from; 0 for no intervals.
        groups : str, optional
            A coordinate along ``chip``, such as "region", whose chips are resampled
            together, because their errors are not independent.
        label_errors : bool, optional
            Whether labels weigh by their standard errors, ``agb_se``: 1 / (tau^2 +
            se^2), with the tau^2 that solves sum r^2 / (tau^2 + se^2) = n for the
            differences r of map and labels. By default as in the model's recipe.

        Returns
        -------
        pandas.DataFrame
            A row "all" and a row for each bin, with the number of ``pixels``
            compared; ``average_rmse`` (the root mean squared error of a chip, or of
            256 x 256 pixels of a scene, averaged over those: the measure of the
            BioMassters competition), ``pixel_rmse`` (over all pixels together),
            ``mae`` and ``bias`` (predicted minus observed), all in Mg/ha, or in the
            units of another target, which ``attrs["units"]`` names; ``r2`` (NaN
            by bin of biomass); and the mean ``observed`` and ``predicted`` density.
            Where the map has an interval, ``coverage``, the share of pixels within
            it, and ``width``, its mean width in Mg/ha. Each error, R2 and the
            coverage have ``_lower`` and ``_upper``: a percentile bootstrap over
            chips, or over 256 x 256 pixels of a scene, never over pixels. They are
            NaN where fewer than two of those have any such pixel; with fewer than
            about 20 they are too narrow. ``attrs["input check"]`` is the result of
            `check`. ``attrs["trained"]`` counts the labels and those of them that
            trained the model (``learnt``; None where it is not known).
            Where the cube has ``agb_se``, also ``label_error``, the root mean
            square of the labels' standard errors, and ``rmse_without_label_error``,
            sqrt(pixel RMSE^2 - mean(se^2)), 0 where that is negative: the RMSE of the
            map itself if its errors and those of the labels are independent. Both are
            NaN in bins of observed values, which errors of labels make, and the
            second for the cube that the model was trained on.
            ``attrs["label errors"]`` says whether labels weighed, how many labels of
            equal weight they are worth, how many have no error (they get the median of
            the others), and which rows are 0.

        Raises
        ------
        CubeError
            If there is no ``agb``, or it has no label or units that cannot be
            converted to the model's.
        ValueError
            If a setting is out of its range.
        TypeError
            If a setting is unknown.

        Warns
        -----
        UserWarning
            If 5 % of the labels or more trained the model: errors are too small.
            If standard errors of labels are larger than the errors that are seen, or
            ``label_errors=True`` and there are none.
        """
        cube = self._with_own_units(need_target(cube, self.bands))
        chosen = MapSettings(**settings)
        mapper = self._mapper(cube, chosen)
        checked = self._check_mapped(mapper, chosen.check)
        trained = LearntCount(self, cube)
        known = mapper.reader.has_errors
        tally = tally_for(
            Bins(by, mapper.reader.months, self.target),
            known,
            self._weighs(label_errors, known),
            not (known and self.was_trained_on(cube)),
        )
        for sample in mapper.samples():
            truth = mapper.reader.labels(sample).astype(np.float64)
            if not np.isfinite(truth).any():
                continue
            trained.add(sample, np.isfinite(truth))
            maps = mapper.compute(sample.window, sample.chip).astype(np.float64)
            layers = dict(zip(mapper.layers, maps, strict=True))
            seen = months_seen(mapper.reader, sample) if by == "months" else None
            (group,) = groups_of(cube, [sample], groups) or (None,)
            ends = interval_of(layers, self.target.name)
            errors = mapper.reader.errors(sample) if known else None
            add_parts(tally, maps[0], truth, ends, seen, group, errors)
        if tally.count == 0:
            raise CubeError(
                "'agb' must have a label where the image has an observation, got none: "
                "there is nothing to compare. Give a cube with labels."
            )
        table = tally.table(confidence, bootstrap)
        table.attrs["input check"] = dict(checked)
        tell_clipped(table, stacklevel=3)
        table.attrs["trained"] = trained.to_dict()
        if trained.share >= TOLD:
            warnings.warn(
                f"{trained} trained the model: errors at them are too small; leave "
                "them out, cube.assign(agb=cube.agb.where(~model.learnt_from(cube))).",
                stacklevel=3,
            )
        return table

    def _weighs(self, asked: bool | None, known: bool) -> bool:
        """Return whether labels weigh by their errors, which are known or not."""
        if asked and not known:
            warnings.warn(NO_EFFECT, stacklevel=4)
        if asked is None:
            first: Any = (getattr(self, "models", None) or [self])[0]
            asked = bool(getattr(getattr(first, "recipe", None), "label_errors", False))
        return asked and known

    def calibrate(
        self,
        cube: xr.Dataset | xr.DataArray,
        interval: float = 0.9,
        *,
        classes: int | Sequence[float] | None = None,
        unit: int = EVALUATION_BLOCK,
        groups: str | None = None,
        label_errors: bool | None = None,
    ) -> Self:
        """Calibrate an interval for maps, on labelled data that was not trained on.

        Conformal calibration works for any model. Quantiles that a model learnt are
        shifted until they cover the wanted share; another model's map is widened on
        both sides; the map of an ensemble with ``spread=True`` is widened by
        multiples of its spread. Margins depend on the class of predicted biomass.
        Chips, or blocks of a scene, are the exchangeable groups: each counts once,
        with any number of pixels. docs/explanation/intervals.md says what is
        guaranteed.

        Parameters
        ----------
        cube : xarray.Dataset
            With ``agb``; from the area, years and sensors that will be mapped.
        interval : float
            Share of the pixels that the interval should cover.
        classes : int or sequence of float, optional
            Number of classes with equal numbers of pixels, or edges between classes
            in Mg/ha; by default the bins of :meth:`evaluate`. Neighbours are merged
            until each class is in enough chips or blocks.
        unit : int
            Side of the blocks of a scene, pixels. A block is one exchangeable group,
            and so is a chip.
        groups : str, optional
            A coordinate along ``chip``, such as "region": all chips of a region are
            then one exchangeable group, so that the interval holds in new regions.
        label_errors : bool, optional
            Whether labels weigh by their standard errors, as in :meth:`evaluate`.
            The interval then covers labels drawn with these weights; it stays an
            interval for labels, their errors included.

        Returns
        -------
        Predictor
            Itself, with `calibration` set. From now on maps have ``agb_lower`` and
            ``agb_upper``, and the calibration is saved with the model. It is computed
            from maps with the default settings; other tiles, overlaps and flips
            change values, and so the coverage, a little.

        Raises
        ------
        CubeError
            If the cube has no label, or the model was trained on it.
        ValueError
            If there are too few chips or blocks, or, weighed, these are worth too
            few; or a number is out of range.

        Warns
        -----
        UserWarning
            If there are too few groups: then each chip is a separate group; or
            ``label_errors=True`` and the cube has no ``agb_se``.
        """
        check_interval(interval)
        cube = self._with_own_units(need_target(cube, self.bands))
        if self.was_trained_on(cube):
            raise CubeError(
                "The model was trained on this cube: errors there are too small to "
                "calibrate with. Give labelled data that it never saw, or train with "
                "gb.fit(cube, interval=0.9), which holds some out for calibration."
            )
        mapper = self._bare(cube)
        samples = units_of(mapper.reader, unit)
        weigh = self._weighs(label_errors, mapper.reader.has_errors)
        named = groups_of(cube, samples, groups)
        units = compare_units(mapper, samples, groups=named, weigh=weigh)
        self.calibration = calibration_of(
            units, mapper.reader, interval, classes, target=self.target, groups=groups
        )
        if groups is not None and self.calibration.kind != "groups":
            warnings.warn(few_groups(interval, groups, ""), stacklevel=2)
        return self

    @property
    def choice(self) -> pd.DataFrame | None:
        """The comparison by which ``gb.fit`` chose this model; None without one.

        A row for each learner: ``rmse`` on held-out labels with its
        ``standard_error``, the ``difference`` to the best with its own
        ``difference_error``, ``bias``, ``seconds``, ``labels``, ``kept`` and ``note``.
        """
        first = (getattr(self, "models", None) or [self])[0]
        return choice_table(getattr(first, "provenance", {}))

    def was_trained_on(self, cube: xr.Dataset) -> bool:
        """Return whether the model was trained on exactly this cube and its labels.

        Parameters
        ----------
        cube : xarray.Dataset
            With ``agb``. A part of the training data is not recognised.
        """
        made = getattr(self, "provenance", {})
        # What it was trained on, and the plots that an adapted model was corrected by.
        parts = [made[name] for name in ("data", "adaptation") if made.get(name)]
        known = {part["fingerprint"] for part in parts}
        layers: tuple[str, ...] = getattr(self, "static_layers", ())
        if not known or not set(layers) <= set(layers_of(cube)):
            return False
        return data_fingerprint(settled(cube), self.bands, layers) in known

    def _with_own_units(self, cube: xr.Dataset) -> xr.Dataset:
        """Return a cube with labels in the units that the model predicts."""
        return in_units_of(cube, self.target, "The model predicts")

    def _calibrated(self) -> dict[str, Any]:
        """Return the calibration for a model's settings; empty where there is none."""
        if self.calibration is None:
            return {}
        return {"calibration": self.calibration.to_dict()}

    def _take_calibration(self, settings: Mapping[str, Any]) -> None:
        if settings.get("calibration") is not None:
            self.calibration = Calibration.from_dict(settings["calibration"])

    def attention(
        self,
        cube: xr.Dataset,
        at: tuple[float, float] | None = None,
        chip: Any = None,
        *,
        tile: int = 256,
        samples: int = 16,
    ) -> xr.DataArray:
        """Return the attention weights: how much each month counts in the map.

        Parameters
        ----------
        cube : xarray.Dataset
            With all bands that the model needs.
        at : tuple of float, optional
            A point (y, x) in the scene's coordinate reference system; row and column
            of a chip, or of a scene without coordinates. By default the mean over the
            cube.
        chip : str or int, optional
            Only this chip.
        tile : int
            Side of the tile around the point that the network sees, pixels.
        samples : int
            Largest number of tiles to average over, from all over the cube.

        Returns
        -------
        xarray.DataArray
            (level, month) float64: at each level of the network, named by the side
            of its cells in pixels, weights that sum to one over the months. A month
            that is absent has exactly zero. ``present`` (month) is the share of tiles
            that have the month.

        Raises
        ------
        TypeError
            If the model's network has no attention over months.
        ValueError
            If the point is outside the cube, the chip is unknown, or there is no
            observation.
        CubeError
            If `cube` is not a cube or lacks a band.
        """
        return self._attention(
            cube_for(cube, self.bands), at=at, chip=chip, tile=tile, samples=samples
        )

    def _attention(self, cube: xr.Dataset, **settings: Any) -> xr.DataArray:
        """Return the attention of this model; an ensemble averages its members'."""
        from geobiomass.inference.attention import month_attention

        return month_attention(self.network, self.bands, cube, **settings)

    def explore(
        self,
        map: str | Path | xr.Dataset | xr.DataArray,
        layers: Mapping[str, str | Path | xr.Dataset | xr.DataArray] | None = None,
        *,
        limits: tuple[float, float] | None = None,
        opacity: float = 0.8,
        tiles: str | None = "OpenStreetMap",
        largest: int = 2000,
        leaflet: str | Path | None = None,
    ) -> Any:
        """Show a map of this model on an interactive page: legend, opacity, layers.

        Parameters
        ----------
        map : str, Path, xarray.Dataset or xarray.DataArray
            A map of :meth:`predict` or :meth:`predict_to`. A lazy one is computed
            chunk by chunk; of one on disk overviews are read.
        layers : mapping, optional
            Other layers by name, such as ``{"true biomass": cube["agb"]}``.
        limits : tuple of float, optional
            Ends of the colour scale, in the map's units; by default 0 and the 99th
            percentile.
        opacity : float
            Initial opacity of the map, 0 to 1; the page has a slider.
        tiles : str, optional
            Name of the base map in folium; None for no base map, which needs no
            internet.
        largest : int
            Largest length of the picture's longer side, pixels.
        leaflet : str or Path, optional
            A folder with ``leaflet.js`` and ``leaflet.css``, which are written into
            the page: with ``tiles=None`` it then needs no internet.

        Returns
        -------
        folium.Map
            Shows itself in Jupyter; ``.save("map.html")`` writes one file.

        Raises
        ------
        ModuleNotFoundError
            If folium is not installed: ``pip install 'geobiomass[plots]'``.
        FileNotFoundError
            If there is nothing at a path.
        ValueError
            If a map has no georeference or no value, or a setting is out of range.
        """
        from geobiomass.maps.web import explore_map

        return explore_map(
            map,
            layers,
            limits=limits,
            opacity=opacity,
            tiles=tiles,
            largest=largest,
            leaflet=leaflet,
        )

    def export(
        self,
        path: str | Path,
        *,
        months: int | None = None,
        height: int = 256,
        width: int = 256,
    ) -> Path:
        """Write the network as a graph that runs without this package.

        The graph takes an image (batch, month, band, y, x) float32 in physical units,
        NaN where missing, bands in the order of `bands`, and returns (batch, output,
        y, x) in Mg/ha, equal to the network's to about one part in a million. Ends of
        an interval come before calibration, as ``agb_lower_raw`` and
        ``agb_upper_raw``, which must be calibrated before use. Any number of images
        can be in a batch; the other sizes are fixed. Absent months are encoded as
        well, so the graph is slower where months are missing.

        Parameters
        ----------
        path : str or Path
            ``.pt2`` for ``torch.export.load``; ``.onnx`` for ONNX, which needs
            ``pip install 'geobiomass[export]'``. An earlier export
            is replaced, no other file.
        months : int, optional
            Months of the images; by default those that the model was made for.
        height, width : int
            Size of the images, pixels.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ValueError
            If the path has another ending, or a number is out of range.
        ModuleNotFoundError
            If the packages for ONNX are not installed.
        """
        from geobiomass.models.export import export_network

        return export_network(
            self.network,
            path,
            months=self.months if months is None else months,
            bands=len(self.bands),
            outputs=self.outputs,
            units=self.units,
            height=height,
            width=width,
        )

    def _repr_html_(self) -> str:
        """Return a summary as HTML, for Jupyter."""
        return Summary(describe_model(self)).to_html()
