"""A network that maps cubes: predict, predict_to, predict_chips_to, plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.applicability.layer_names import INDEX, INSIDE
from geobiomass.cube import CubeError, is_chips
from geobiomass.cube.axes import named_like
from geobiomass.cube.convert import cube_for
from geobiomass.cube.plain_attributes import as_json
from geobiomass.cube.quantity import AGB
from geobiomass.cube.store import is_local
from geobiomass.inference.map_settings import (
    MapOptions,
    MapSettings,
    takes_map_settings,
)
from geobiomass.inference.mapper import Mapper, lazy_map
from geobiomass.inference.plan import MapPlan, plan_map
from geobiomass.maps import (
    MADE_WITH,
    Block,
    fingerprint_of,
    write_competition,
    write_map,
)
from geobiomass.metadata.record import note_provenance
from geobiomass.metadata.stac_item import check_item_can_be_written, write_stac_item
from geobiomass.models.map_counts import tell_counts
from geobiomass.models.map_error import tell
from geobiomass.models.model_mapper import ModelMapper
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from zarr.abc.store import Store


@explain_arguments
class MapMaker(ModelMapper):
    """A network that maps cubes."""

    @takes_map_settings()
    def predict(
        self,
        cube: xr.Dataset | xr.DataArray,
        *in_order: int | None,
        applicability: bool = False,
        **settings: Unpack[MapOptions],
    ) -> xr.Dataset:
        """Map a scene, or chips, lazily: a block is computed when it is accessed.

        Parameters
        ----------
        cube : xarray.Dataset or xarray.DataArray
            With all bands that the model needs; other bands are ignored. A cube, or
            anything that :func:`as_cube` accepts.
        **settings
            The settings of :class:`geobiomass.inference.map_settings.MapSettings`.
        applicability : bool
            Also map, in the same pass, the layers of :meth:`applicability`.

        Returns
        -------
        xarray.Dataset
            ``agb`` (y, x) or (chip, y, x) float32, Mg/ha, on the cube's own grid and
            with its names of the axes; NaN where no month has any observation. One
            variable for each output; with a calibration also ``agb_lower`` and
            ``agb_upper``, the ends of the interval. A model of another quantity has
            that one's name in place of ``agb``, and its units.

        Raises
        ------
        CubeError
            If `cube` is not a cube or lacks a band.
        ValueError
            If a setting is out of its range, or `applicability` is asked for and
            the model does not know its training data.
        TypeError
            If a setting is unknown.
        """
        chosen, own = MapSettings(**settings), cube_for(cube, self.bands)
        tell(self.map_errors, stacklevel=3)
        mapper = self._mapper(own, chosen, applicability)
        checked = self._check_mapped(mapper, chosen.check)
        result = lazy_map(mapper, own)
        # The fingerprint of the input is left out: it would read all that is in memory.
        made_with = mapper.values_depend_on()
        note_provenance(result, self, own, made_with, mapper.region, checked=checked)
        return named_like(result, cube)

    @takes_map_settings(in_order=())
    def applicability(
        self, cube: xr.Dataset | xr.DataArray, **settings: Unpack[MapOptions]
    ) -> xr.Dataset:
        """Map where the model's reported error can be trusted.

        The area of applicability of Meyer and Pebesma (2021): how dissimilar the
        images of a location are to the training data, as the network sees them. It
        costs as much as a map; ``predict(cube, applicability=True)`` returns both in
        one pass.

        Parameters
        ----------
        cube : xarray.Dataset or xarray.DataArray
            With all bands that the model needs.
        **settings
            The settings of :class:`geobiomass.inference.map_settings.MapSettings`.

        Returns
        -------
        xarray.Dataset
            Lazy, on the cube's own grid, float32, NaN where no month has any
            observation: ``dissimilarity``, 0 where the images are like training data
            and above 1 outside the area; and ``applicable``, 1 inside and 0 outside.

        Raises
        ------
        CubeError
            If `cube` is not a cube or lacks a band.
        ValueError
            If a setting is out of its range, or the model does not know its training
            data; :meth:`BiomassRegressor.learn_applicability` then learns it.
        TypeError
            If a setting is unknown.
        """
        return self.predict(cube, **settings, applicability=True)[[INDEX, INSIDE]]

    @takes_map_settings()
    def predict_to(
        self,
        path: str | Path | Store,
        cube: xr.Dataset | xr.DataArray,
        *in_order: int | None,
        applicability: bool = False,
        overviews: bool = False,
        resume: bool = True,
        overwrite: bool = False,
        client: Any = None,
        progress: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        notes: Mapping[str, str] | None = None,
        stac_item: bool | str | Path = False,
        **settings: Unpack[MapOptions],
    ) -> Any:
        """Map a cube to disk, block by block, resuming where an earlier call stopped.

        Parameters
        ----------
        path : str, Path or zarr.abc.store.Store
            ``.zarr`` for a Zarr group, ``.tif`` for a cloud-optimised GeoTIFF: a path
            or an address that fsspec knows (``s3://bucket/map.zarr``). Or a store of
            Zarr, such as one of obstore.
        cube : xarray.Dataset or xarray.DataArray
            As in :meth:`predict`.
        **settings
            The settings of :class:`geobiomass.inference.map_settings.MapSettings`.
        applicability : bool
            As in :meth:`predict`.
        overviews : bool
            Add maps of half, a quarter, ... the resolution to a Zarr map; a GeoTIFF
            always has them.
        resume : bool
            Continue a half-written map of the same model, input and settings;
            otherwise start it again.
        overwrite : bool
            First delete the map or cube at `path`; nothing else is ever deleted.
        client : distributed.Client, optional
            Compute the blocks on its workers; by default on the workers of
            the active client, if there is one, else on this machine.
        progress : bool
            Show a progress bar.
        storage_options : mapping, optional
            Options of fsspec for the address: credentials, an endpoint.
        notes : mapping of str to str, optional
            Notes to write into the map, such as ``{"contact": "...", "licence":
            "CC-BY-4.0"}``: :func:`geobiomass.provenance` reads them.
        stac_item : bool, str or Path
            Write a STAC item next to the map, as :func:`geobiomass.write_stac_item`
            does; given the folder or the address of this model, saved, the item
            describes it too.

        Returns
        -------
        Path, str or Store
            The written map: `path`.

        Raises
        ------
        FileExistsError
            If something else is at `path`: another map, or no map. A finished map
            of the same model, input and settings stays as it is.
        MapInUseError
            If another process is writing this map.
        DamagedError
            If such a finished map is there, and was damaged since: all of it is
            compared with its checksums.
        IncompleteMapError
            If blocks could not be computed; the others are kept.
        CubeError, ValueError, TypeError
            As in :meth:`predict`.
        """
        chosen, cube = MapSettings(**settings), cube_for(cube, self.bands)
        tell(self.map_errors, stacklevel=3)
        mapper = self._mapper(cube, chosen, applicability)
        checked = self._check_mapped(mapper, chosen.check)
        counts = self._counts()
        template = lazy_map(mapper, cube)
        made_with = self._depends_on(cube, mapper)
        template.attrs[MADE_WITH] = as_json(made_with)
        note_provenance(template, self, cube, made_with, mapper.region, notes, checked)
        if stac_item:
            check_item_can_be_written(template, path)
        try:
            write_map(
                path,
                template,
                _blocks_of(mapper),
                partial(_compute, mapper),
                fingerprint_of(made_with),
                side=mapper.settings.block,
                overviews=overviews,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
                client=client,
                storage_options=storage_options,
                count=counts,
            )
        except BaseException:
            mapper.stop()  # blocks on other threads, for example after Ctrl-C
            raise
        if counts is not None:
            tell_counts(counts.found, str(path), stacklevel=3)
        if stac_item:
            folder = None if stac_item is True else stac_item
            write_stac_item(cast(Path, path), model=folder)
        return Path(path) if isinstance(path, str) and is_local(path) else path

    @takes_map_settings(in_order=("tile", "overlap", "batch_size", "flips"))
    def predict_chips_to(
        self,
        folder: str | Path,
        cube: xr.Dataset | xr.DataArray,
        *in_order: int | None,
        overwrite: bool = False,
        client: Any = None,
        progress: bool = True,
        **settings: Unpack[MapOptions],
    ) -> Path:
        """Map chips to files in the format of the BioMassters competition.

        One GeoTIFF for each chip, ``{chip}_agbm.tif``: float32, Mg/ha, without a
        georeference. Predictions below zero are written as zero, as no biomass is
        negative; so are pixels without any observation, as the competition
        accepts no gaps. A second call keeps existing files. Each chip is one block;
        `block` has no effect.

        Parameters
        ----------
        folder : str or Path
            New, or with such files of these chips and nothing else.
        cube : xarray.Dataset or xarray.DataArray
            Chips, as in :meth:`predict`.
        **settings
            The settings of :class:`geobiomass.inference.map_settings.MapSettings`.
        overwrite : bool
            Write existing files again.
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
            If the cube is a scene, is not a cube, or lacks a band, or if a region is
            given, which chips do not have.
        FileExistsError
            If the folder holds anything else, or files of another model, other
            input or settings.
        MapInUseError
            If another process writes to the folder.
        IncompleteMapError
            If chips could not be computed, by name; the others are written.
        ValueError
            If a setting is out of its range, or the model predicts something else
            than biomass.
        TypeError
            If a setting is unknown.
        """
        cube = cube_for(cube, self.bands)
        if self.units != AGB.units:
            raise ValueError(
                f"Files of the competition hold biomass in {AGB.units}, and this model "
                f"predicts {self.target.name} in {self.units}; use predict_to."
            )
        if not is_chips(cube):
            raise CubeError(
                "The competition takes chips, got a scene; map it with predict_to "
                "(on the command line, without --format biomassters)."
            )
        # One block for each chip, which is one file.
        side = max(cube.sizes["y"], cube.sizes["x"])
        chosen = dataclasses.replace(MapSettings(**settings), block=side)
        mapper = self._mapper(cube, chosen)
        self._check_mapped(mapper, chosen.check)
        try:
            write_competition(
                folder,
                mapper.reader.names,
                _blocks_of(mapper),
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

    @takes_map_settings()
    def plan(
        self,
        cube: xr.Dataset | xr.DataArray,
        *in_order: int | None,
        workers: int = 1,
        **settings: Unpack[MapOptions],
    ) -> MapPlan:
        """Estimate the cost of a map, from a short measurement on this machine.

        Parameters
        ----------
        cube : xarray.Dataset or xarray.DataArray
            As in :meth:`predict`.
        **settings
            The settings of :class:`geobiomass.inference.map_settings.MapSettings`.
        workers : int
            Number of machines like this one that share the work.

        Returns
        -------
        MapPlan
            Blocks, tiles, bytes, memory and hours; prints itself.

        Raises
        ------
        CubeError, ValueError, TypeError
            As in :meth:`predict`.
        """
        chosen = MapSettings(**settings)
        return plan_map(self._mapper(cube_for(cube, self.bands), chosen), workers)


def _blocks_of(mapper: Mapper) -> list[Block]:
    return [Block(sample.window, sample.chip) for sample in mapper.samples()]


def _compute(mapper: Mapper, block: Block) -> npt.NDArray[np.float32]:
    return mapper.compute(block.window, block.chip)
