"""What all that maps cubes has in common: predict, predict_to, evaluate, plan."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from torch import nn

from geobiomass.applicability import Domain, Domains
from geobiomass.applicability.cells import need_looking
from geobiomass.applicability.dissimilarity import (
    INDEX,
    INSIDE,
    Applicability,
    WithDissimilarity,
)
from geobiomass.cube import CubeError, as_cube, is_chips
from geobiomass.cube.axes import named_like
from geobiomass.cube.convert import need_target
from geobiomass.cube.region import Region
from geobiomass.cube.store import is_local
from geobiomass.data.reader import Reader, Sample
from geobiomass.data.splits import groups_of
from geobiomass.evaluation.metrics import (
    BOOTSTRAP,
    CONFIDENCE,
    Bins,
    Tally,
    add_parts,
    interval_of,
    months_seen,
)
from geobiomass.inference.batches import Precision
from geobiomass.inference.mapper import Mapper, MapSettings, lazy_map
from geobiomass.inference.plan import MapPlan, plan_map
from geobiomass.inference.steps import Step
from geobiomass.maps import (
    MADE_WITH,
    Block,
    fingerprint_of,
    write_competition,
    write_map,
)
from geobiomass.metadata.record import note_provenance, weights_fingerprint
from geobiomass.metadata.stac_item import check_item_can_be_written, write_stac_item
from geobiomass.models.summary import describe_model
from geobiomass.statistics.conformal import Calibration, check_interval, few_groups
from geobiomass.summary import Summary
from geobiomass.tiles import EVALUATION_BLOCK, Blend

if TYPE_CHECKING:
    from zarr.abc.store import Store


class Predictor:
    """Maps cubes with a network.

    Attributes
    ----------
    network : torch.nn.Module
        (batch, month, band, y, x) -> (batch, output, y, x).
    bands : tuple of str
        The network's bands, in its order.
    outputs : tuple of str
        Name of the map of each output.
    months : int
        Months of the cubes that it was made for.
    calibration : Calibration or None
        What makes maps have ``agb_lower`` and ``agb_upper``.
    """

    network: nn.Module
    bands: tuple[str, ...]
    outputs: tuple[str, ...]
    months: int
    calibration: Calibration | None = None
    _domain: Domain | None = None

    @property
    def domain(self) -> Domain | Domains | None:
        """What it was trained on, that maps are compared with; None: unknown."""
        return self._domain

    def predict(
        self,
        cube: xr.Dataset | xr.DataArray,
        tile: int = 256,
        overlap: int = 64,
        block: int = 1024,
        batch_size: int | None = None,
        flips: bool = False,
        region: Any = None,
        *,
        turns: bool = False,
        blend: Blend = "smooth",
        precision: Precision = "float32",
        memory: int | None = None,
        applicability: bool = False,
    ) -> xr.Dataset:
        """Map a scene, or chips, lazily: only what is looked at is computed.

        Parameters
        ----------
        cube : xarray.Dataset or xarray.DataArray
            With all bands that the model needs; others are left out. A cube, or
            whatever :func:`as_cube` makes one of.
        tile, overlap, block : int
            Pixels: side of a tile that the network sees at once, what neighbouring
            tiles share and blend over, and side of the unit of work. `block` has
            no influence on values.
        batch_size : int, optional
            Tiles in a batch; by default 1 on the CPU, on a GPU as many as its
            memory holds, up to 16.
        flips : bool
            Average over the image and its flips left-right, up-down and both.
        region : optional
            Bounds (left, bottom, right, top) in the scene's reference system,
            GeoJSON, or a geopandas object: pixels outside are NaN and cost nothing.
        turns : bool
            Average over quarter turns: four, or with `flips` all eight
            orientations.
        blend : "smooth" or "crop"
            Tiles fade into each other over the overlap; or each pixel is of one
            tile, cut in the middle of the overlap.
        precision : "float32", "bf16" or "auto"
            Of the network's multiplications. "auto" takes bf16 where the CPU or
            GPU has it: quicker, and off by some parts in a thousand. With float32
            a GPU's map agrees with a CPU's to 1e-5.
        memory : int, optional
            Bytes for tiles side by side on the CPU; by default half of what the
            process may use. Has no influence on values.
        applicability : bool
            Also map, in the same pass, what :meth:`applicability` tells.

        Returns
        -------
        xarray.Dataset
            ``agb`` (y, x) or (chip, y, x) float32, Mg/ha, on the cube's own grid and
            with the names that it has for its axes; NaN where no month has any
            observation. A variable an output; with a calibration ``agb_lower`` and
            ``agb_upper``, the ends of the interval.

        Raises
        ------
        CubeError
            If `cube` is not a cube or lacks a band.
        ValueError
            If a setting is out of its range, or `applicability` is asked for and
            the model does not know its training data.
        """
        settings = MapSettings(
            tile, overlap, block, batch_size, flips, turns, blend, precision, memory
        )
        own = as_cube(cube)
        mapper, result = self._lazy(own, settings, region, applicability)
        # Not of the input: all of what is in memory would be read for a fingerprint.
        note_provenance(result, self, own, _settings_of(mapper), mapper.region)
        return named_like(result, cube)

    def applicability(
        self, cube: xr.Dataset | xr.DataArray, **settings: Any
    ) -> xr.Dataset:
        """Map where the model's maps can be trusted as its reported error says.

        The area of applicability of Meyer and Pebesma (2021): how unlike the training
        data a place is to the network. It costs a map; ``predict(cube,
        applicability=True)`` gives both in one pass.

        Parameters
        ----------
        cube : xarray.Dataset or xarray.DataArray
            With all bands that the model needs.
        **settings
            As :meth:`predict` takes them.

        Returns
        -------
        xarray.Dataset
            Lazy, on the cube's own grid, float32, NaN where no month has any
            observation: ``dissimilarity``, 0 where the place is as training data and
            above 1 where it is outside, and ``applicable``, 1 inside and 0 outside.

        Raises
        ------
        CubeError
            If `cube` is not a cube or lacks a band.
        ValueError
            If a setting is out of its range, or the model does not know its training
            data; :meth:`BiomassRegressor.learn_applicability` then learns it.
        """
        return self.predict(cube, **settings, applicability=True)[[INDEX, INSIDE]]

    def predict_to(
        self,
        path: str | Path | Store,
        cube: xr.Dataset | xr.DataArray,
        tile: int = 256,
        overlap: int = 64,
        block: int = 1024,
        batch_size: int | None = None,
        flips: bool = False,
        region: Any = None,
        *,
        turns: bool = False,
        blend: Blend = "smooth",
        precision: Precision = "float32",
        memory: int | None = None,
        applicability: bool = False,
        overviews: bool = False,
        resume: bool = True,
        overwrite: bool = False,
        client: Any = None,
        progress: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        notes: Mapping[str, str] | None = None,
        stac_item: bool | str | Path = False,
    ) -> Any:
        """Map a cube to disk, block by block, resuming where an earlier call stopped.

        Parameters
        ----------
        path : str, Path or zarr.abc.store.Store
            ``.zarr`` for a Zarr group, ``.tif`` for a cloud-optimised GeoTIFF: a path
            or an address that fsspec knows (``s3://bucket/map.zarr``). Or a store of
            Zarr, such as one of obstore.
        cube, tile, overlap, block, batch_size, flips, region, turns, blend
            As in :meth:`predict`.
        precision, memory, applicability
            As in :meth:`predict`.
        overviews : bool
            Add maps of half, a quarter, ... the resolution to a Zarr map; a GeoTIFF
            has them always.
        resume : bool
            Go on with a half-written map by the same model, input and settings;
            otherwise it is begun again.
        overwrite : bool
            Delete what is at `path` first.
        client : distributed.Client, optional
            Compute the blocks on its workers; by default on those of the active
            client, if there is one, else on this machine.
        progress : bool
            Show a progress bar.
        storage_options : mapping, optional
            What fsspec needs for the address: credentials, an endpoint.
        notes : mapping of str to str, optional
            What the map shall say besides, such as ``{"contact": "...", "licence":
            "CC-BY-4.0"}``: :func:`geobiomass.provenance` gives it back.
        stac_item : bool, str or Path
            Write a STAC item beside the map, as :func:`geobiomass.write_stac_item`
            does; given the folder or the address of this model, saved, the item
            describes it too.

        Returns
        -------
        Path, str or Store
            Where the map is: `path`.

        Raises
        ------
        FileExistsError
            If something else is at `path`: another map, or no map. A finished map
            of the same model, input and settings is left as it is.
        MapInUseError
            If another process is writing this map.
        IncompleteMapError
            If blocks could not be computed; the others are kept.
        CubeError, ValueError
            As in :meth:`predict`.
        """
        settings = MapSettings(
            tile, overlap, block, batch_size, flips, turns, blend, precision, memory
        )
        cube = as_cube(cube)
        mapper, template = self._lazy(cube, settings, region, applicability)
        template.attrs[MADE_WITH] = made_with = self._depends_on(cube, mapper)
        note_provenance(template, self, cube, made_with, mapper.region, notes)
        if stac_item:
            check_item_can_be_written(template, path)
        try:
            write_map(
                path,
                template,
                _map_blocks(mapper),
                partial(_compute, mapper),
                fingerprint_of(made_with),
                side=block,
                overviews=overviews,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
                client=client,
                storage_options=storage_options,
            )
        except BaseException:
            mapper.stop()  # blocks on other threads, after Ctrl-C for one
            raise
        if stac_item:
            folder = None if stac_item is True else stac_item
            write_stac_item(cast(Path, path), model=folder)
        return Path(path) if isinstance(path, str) and is_local(path) else path

    def predict_chips_to(
        self,
        folder: str | Path,
        cube: xr.Dataset | xr.DataArray,
        tile: int = 256,
        overlap: int = 64,
        batch_size: int | None = None,
        flips: bool = False,
        *,
        turns: bool = False,
        blend: Blend = "smooth",
        precision: Precision = "float32",
        memory: int | None = None,
        overwrite: bool = False,
        client: Any = None,
        progress: bool = True,
    ) -> Path:
        """Map chips to files as the BioMassters competition takes them.

        A GeoTIFF a chip, ``{chip}_agbm.tif``: float32, Mg/ha, without a place on
        Earth. What is predicted below zero is written as zero, as no biomass is
        negative; so are pixels without any observation, as the competition takes
        no gaps. Called again, chips whose file is there are left as they are.

        Parameters
        ----------
        folder : str or Path
            New, or with such files of these chips and nothing else.
        cube, tile, overlap, batch_size, flips, turns, blend, precision, memory
            As in :meth:`predict`.
        overwrite : bool
            Make files anew that are there.
        client : distributed.Client, optional
            Compute the chips on its workers, as :meth:`predict_to` does.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        CubeError
            If the cube is a scene, is no cube, or lacks a band.
        FileExistsError
            If the folder holds anything else, or files by another model, of other
            input or settings.
        MapInUseError
            If another process writes to the folder.
        IncompleteMapError
            If chips could not be computed, by name; the others are written.
        ValueError
            If a setting is out of its range.
        """
        cube = as_cube(cube)
        if not is_chips(cube):
            raise CubeError(
                "The competition takes chips, got a scene; map it with predict_to "
                "(on the command line, without --format biomassters)."
            )
        side = max(cube.sizes["y"], cube.sizes["x"])
        settings = MapSettings(
            tile, overlap, side, batch_size, flips, turns, blend, precision, memory
        )
        mapper, _ = self._lazy(cube, settings, None)
        try:
            write_competition(
                folder,
                mapper.reader.names,
                _map_blocks(mapper),
                partial(_compute, mapper),
                fingerprint_of(self._depends_on(cube, mapper)),
                overwrite=overwrite,
                progress=progress,
                client=client,
            )
        except BaseException:
            mapper.stop()
            raise
        return Path(folder)

    def export(
        self,
        path: str | Path,
        *,
        months: int | None = None,
        height: int = 256,
        width: int = 256,
    ) -> Path:
        """Write the network as a graph that runs without this package.

        It takes an image (batch, month, band, y, x) float32 in physical units, NaN
        where missing, bands in the order of `bands`, and gives (batch, output, y,
        x) in Mg/ha, the same as the network to about one part in a million: of an
        interval the ends before calibration, ``agb_lower_raw`` and ``agb_upper_raw``,
        which are not to be given out as they are. Any number of images can be in a
        batch; the other sizes are fixed. Absent months are encoded as well, so it is
        slower where months are missing.

        Parameters
        ----------
        path : str or Path
            ``.pt2`` for ``torch.export.load``; ``.onnx`` for ONNX, which needs
            ``pip install 'geobiomass[export]'``. A file there is replaced.
        months : int, optional
            Of the images; by default as the model was made for.
        height, width : int
            Of the images, pixels.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ValueError
            If the ending is another, or a number is out of range.
        ModuleNotFoundError
            If the packages for ONNX are not there.
        """
        from geobiomass.models.export import export_network

        return export_network(
            self.network,
            path,
            months=self.months if months is None else months,
            bands=len(self.bands),
            outputs=self.outputs,
            height=height,
            width=width,
        )

    def _repr_html_(self) -> str:
        """Show itself in Jupyter."""
        return Summary(describe_model(self)).to_html()

    def attention(
        self,
        cube: xr.Dataset,
        at: tuple[float, float] | None = None,
        chip: Any = None,
        *,
        tile: int = 256,
        samples: int = 16,
    ) -> xr.DataArray:
        """Tell which months the map comes from: the weights of the attention.

        Parameters
        ----------
        cube : xarray.Dataset
            With all bands that the model needs.
        at : tuple of float, optional
            A place (y, x) in the scene's reference system; row and column of a chip,
            or of a scene without coordinates. By default the mean over the cube.
        chip : str or int, optional
            Only this chip.
        tile : int
            Pixels: side of what the network sees at once, the place in its middle.
        samples : int
            Tiles at most that a mean is taken over, from all over the cube.

        Returns
        -------
        xarray.DataArray
            (level, month) float64: at each level of the network, named by the side
            of its cells in pixels, weights that sum to one over the months. A month
            that is absent has exactly zero. ``present`` (month) is the share of the
            tiles that have the month.

        Raises
        ------
        TypeError
            If the model's network has no attention over months.
        ValueError
            If the place lies outside, the chip is unknown, or there is no
            observation.
        CubeError
            If `cube` is not a cube or lacks a band.
        """
        from geobiomass.inference.attention import month_attention

        return month_attention(
            self.network,
            self.bands,
            as_cube(cube),
            at,
            chip,
            tile=tile,
            samples=samples,
        )

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
            What :meth:`predict` gave or :meth:`predict_to` wrote. A lazy one is
            computed, a piece at a time; of one on disk overviews are read.
        layers : mapping, optional
            Other layers by name, such as ``{"true biomass": cube["agb"]}``.
        limits : tuple of float, optional
            Ends of the colour scale, Mg/ha; by default 0 and the 99th percentile.
        opacity : float
            Of the map at first, 0 to 1; there is a slider.
        tiles : str, optional
            The base map, as folium names it; None for none, which needs no internet.
        largest : int
            Pixels of the picture's longer side at most.
        leaflet : str or Path, optional
            A folder with ``leaflet.js`` and ``leaflet.css``, to be written into the
            page: with ``tiles=None`` it then needs no internet.

        Returns
        -------
        folium.Map
            Shows itself in Jupyter; ``.save("map.html")`` writes one file.

        Raises
        ------
        ModuleNotFoundError
            If folium is not installed: ``pip install 'geobiomass[plots]'``.
        FileNotFoundError
            If nothing is at a path.
        ValueError
            If a map has no place on Earth or no value, or a setting is out of range.
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

    def plan(
        self,
        cube: xr.Dataset | xr.DataArray,
        tile: int = 256,
        overlap: int = 64,
        block: int = 1024,
        batch_size: int | None = None,
        flips: bool = False,
        region: Any = None,
        *,
        turns: bool = False,
        blend: Blend = "smooth",
        precision: Precision = "float32",
        memory: int | None = None,
        workers: int = 1,
    ) -> MapPlan:
        """Predict what a map costs, from a short measurement on this machine.

        Parameters
        ----------
        cube, tile, overlap, block, batch_size, flips, region, turns, blend
            As in :meth:`predict`.
        precision, memory
            As in :meth:`predict`.
        workers : int
            Machines like this one that share the work.

        Returns
        -------
        MapPlan
            Blocks, tiles, bytes, memory and hours; prints itself.

        Raises
        ------
        CubeError, ValueError
            As in :meth:`predict`.
        """
        settings = MapSettings(
            tile, overlap, block, batch_size, flips, turns, blend, precision, memory
        )
        return plan_map(self._lazy(as_cube(cube), settings, region)[0], workers)

    def _lazy(
        self,
        cube: xr.Dataset,
        settings: MapSettings,
        region: Any,
        applicability: bool = False,
    ) -> tuple[Mapper, xr.Dataset]:
        reader = Reader(cube, self.bands)
        where = Region.of(region, cube) if region is not None else None
        network, outputs = self._in_months(reader.calendar), self.outputs
        steps = self._steps()
        if applicability:
            network = self._with_dissimilarity(reader.calendar)
            outputs = (*outputs, INDEX)
            steps = (*steps, Applicability(self._known_domain().fingerprint()))
        mapper = Mapper(network, reader, settings, outputs, where, steps)
        return mapper, lazy_map(mapper, cube)

    def _steps(self) -> tuple[Step, ...]:
        """Give the steps from the network's maps to the layers that are given out."""
        return () if self.calibration is None else (self.calibration,)

    def calibrate(
        self,
        cube: xr.Dataset | xr.DataArray,
        interval: float = 0.9,
        *,
        classes: int | Sequence[float] | None = None,
        unit: int = EVALUATION_BLOCK,
        groups: str | None = None,
    ) -> Self:
        """Give maps an interval, calibrated on labelled data that was never learnt.

        Any model can be: one that learnt quantiles has them shifted until they hold
        what they should, another's map is widened to both sides, an ensemble's with
        ``spread=True`` by multiples of its spread. Margins go by class of predicted
        biomass. A chip or block counts as one, however many pixels it has: see
        docs/explanation/intervals.md for what is promised.

        Parameters
        ----------
        cube : xarray.Dataset
            With ``agb``; of the ground, years and sensors that will be mapped.
        interval : float
            Part of the pixels that the interval shall hold.
        classes : int or sequence of float, optional
            How many classes of equally many pixels, or edges between them in Mg/ha;
            by default the bins of :meth:`evaluate`. Neighbours are merged until each
            is in enough chips or blocks.
        unit : int
            Side of the blocks of a scene, pixels; of chips each is one.
        groups : str, optional
            A coordinate along ``chip``, such as "region": all chips of one count as
            one, so that the interval holds in new regions too.

        Returns
        -------
        Predictor
            Itself, with `calibration` set. Maps have ``agb_lower`` and ``agb_upper``
            from now on, and it is saved with the model. It is made from maps with
            the default settings; other tiles, overlaps and flips change values a
            little, and what is promised by as much.

        Raises
        ------
        CubeError
            If the cube has no label, or the model was trained on it.
        ValueError
            If there are too few chips or blocks, or a number is out of range.

        Warns
        -----
        UserWarning
            If there are too few groups: then each chip counts as one after all.
        """
        from geobiomass.models.calibration import (
            calibration_of,
            compare_units,
            units_of,
        )

        check_interval(interval)
        cube = need_target(cube)
        if self.was_trained_on(cube):
            raise CubeError(
                "The model was trained on this cube: errors there are too small to "
                "calibrate with. Give labelled data that it never saw, or train with "
                "gb.fit(cube, interval=0.9), which holds some out for it."
            )
        mapper = self._bare(cube)
        samples = units_of(mapper.reader, unit)
        units = compare_units(mapper, samples, groups=groups_of(cube, samples, groups))
        self.calibration = calibration_of(
            units, mapper.reader, interval, classes, name=self.outputs[0], groups=groups
        )
        if groups is not None and self.calibration.kind != "groups":
            warnings.warn(few_groups(interval, groups, ""), stacklevel=2)
        return self

    def _bare(self, cube: xr.Dataset) -> Mapper:
        """Give what maps a cube by default settings, to what the network gives."""
        reader = Reader(cube, self.bands)
        network = self._in_months(reader.calendar)
        # Blocks of a tile's size: only those that are asked for are computed.
        settings = MapSettings(block=MapSettings.tile)
        return Mapper(network, reader, settings, self.outputs)

    def was_trained_on(self, cube: xr.Dataset) -> bool:
        """Tell whether this very cube, with its labels, is what it was trained on.

        Parameters
        ----------
        cube : xarray.Dataset
            With ``agb``. Of a part of the training data it is not known.
        """
        from geobiomass.data.fingerprint import data_fingerprint

        data = getattr(self, "provenance", {}).get("data")
        if not data:
            return False
        known: str = data["fingerprint"]
        return known == data_fingerprint(cube, self.bands)

    def _calibrated(self) -> dict[str, Any]:
        """Give the calibration for a model's settings, where there is one."""
        if self.calibration is None:
            return {}
        return {"calibration": self.calibration.to_dict()}

    def _take_calibration(self, settings: Mapping[str, Any]) -> None:
        if settings.get("calibration") is not None:
            self.calibration = Calibration.from_dict(settings["calibration"])

    def _in_months(self, calendar: tuple[int, ...]) -> nn.Module:
        """Give the network for steps of these calendar months."""
        return self.network

    def _with_dissimilarity(self, calendar: tuple[int, ...]) -> nn.Module:
        """Give the network with the dissimilarity as its last map."""
        need_looking(self.network)
        domain = cast(Domain, self._known_domain())
        return WithDissimilarity(self._in_months(calendar), domain)

    def _known_domain(self) -> Domain | Domains:
        if self.domain is None:
            raise ValueError(
                "the model must know what it was trained on to map applicability, got "
                "one that does not; give it the training data with "
                "model.learn_applicability(cube), or train with domain_cells above 0."
            )
        return self.domain

    def _depends_on(self, cube: xr.Dataset, mapper: Mapper) -> dict[str, Any]:
        """Give all that a map's values depend on, in words and hashes."""
        grid = [
            repr(cube[dim].values.tolist())
            for dim in ("chip", "month", "y", "x")
            if dim in cube.coords
        ]
        return {
            "model": weights_fingerprint(self.network),
            "bands": list(self.bands),
            "input": mapper.reader.identity(),
            "grid": _hash("".join(grid)),
            "region": _hash(repr(mapper.region)) if mapper.region else "whole",
            **_settings_of(mapper),
        }

    def evaluate(
        self,
        cube: xr.Dataset | xr.DataArray,
        tile: int = 256,
        overlap: int = 64,
        block: int = 1024,
        batch_size: int | None = None,
        flips: bool = False,
        *,
        turns: bool = False,
        blend: Blend = "smooth",
        precision: Precision = "float32",
        by: str = "biomass",
        confidence: float = CONFIDENCE,
        bootstrap: int = BOOTSTRAP,
        groups: str | None = None,
    ) -> pd.DataFrame:
        """Compare the map of a cube with its labels.

        Parameters
        ----------
        cube : xarray.Dataset
            With ``agb``.
        tile, overlap, block, batch_size, flips, turns, blend, precision
            As in :meth:`predict`.
        by : "biomass", "predicted" or "months"
            What rows stand for: bins of observed biomass ("0-50", ... Mg/ha), the
            same of predicted biomass, or in how many months the pixel has any
            value in the model's bands ("12", "9-11", "5-8", "1-4" of twelve).
        confidence : float
            Of the intervals.
        bootstrap : int
            Samples of chips, or of blocks of a scene, that intervals rest on; 0 for
            none.
        groups : str, optional
            A coordinate along ``chip``, such as "region", whose chips are sampled
            together, as what they have in common is no new evidence.

        Returns
        -------
        pandas.DataFrame
            A row "all" and a row a bin, with
            ``pixels`` compared, ``average_rmse`` (the root mean squared error of a
            chip, or of 256 x 256 pixels of a scene, averaged over those: the
            measure of the BioMassters competition), ``pixel_rmse`` (over all pixels
            together), ``mae``, ``bias`` (predicted minus observed), all in Mg/ha;
            ``r2`` (NaN by bin of biomass); and the mean ``observed`` and ``predicted``
            density. Where the map has an interval, ``coverage``, the share of pixels
            within it, and ``width``, its mean width in Mg/ha. Of each error, R2
            and the coverage ``_lower`` and ``_upper``: a percentile bootstrap over
            chips, or over 256 x 256 pixels of a scene, never over pixels. NaN where
            fewer than two of those have any such pixel; with fewer than about 20
            they are too narrow.

        Raises
        ------
        CubeError
            If there is no ``agb``, or it has no label.
        ValueError
            If a setting is out of its range.
        """
        cube = need_target(cube)
        settings = MapSettings(
            tile, overlap, block, batch_size, flips, turns, blend, precision
        )
        mapper, _ = self._lazy(cube, settings, None)
        tally = Tally(Bins(by, mapper.reader.months))
        for work in _map_blocks(mapper):
            sample = Sample(work.window, work.chip)
            truth = mapper.reader.labels(sample).astype(np.float64)
            if not np.isfinite(truth).any():
                continue
            maps = mapper.compute(work.window, work.chip).astype(np.float64)
            layers = dict(zip(mapper.layers, maps, strict=True))
            seen = months_seen(mapper.reader, sample) if by == "months" else None
            (unit,) = groups_of(cube, [sample], groups) or (None,)
            add_parts(tally, maps[0], truth, interval_of(layers), seen, unit)
        if tally.count == 0:
            raise CubeError(
                "'agb' has no label where the image has an observation; nothing to "
                "compare."
            )
        return tally.table(confidence, bootstrap)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _settings_of(mapper: Mapper) -> dict[str, Any]:
    """Give the settings, and the steps, that a map's values depend on."""
    of_steps: dict[str, Any] = {}
    for step in mapper.steps:
        of_steps |= step.values_depend_on()
    return mapper.settings.values_depend_on() | of_steps


def _map_blocks(mapper: Mapper) -> list[Block]:
    windows = mapper.blocks()
    if not mapper.reader.chips:
        return [Block(window) for window in windows]
    return [Block(w, chip) for chip in range(mapper.reader.count) for w in windows]


def _compute(mapper: Mapper, block: Block) -> npt.NDArray[np.float32]:
    return mapper.compute(block.window, block.chip)
