"""Ensembles of regressors: folds are averaged, single and dual streams blended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from geobiomass.training.estimator import ModelError, NotFittedError
from geobiomass.training.model_folder import (
    CARD,
    CONFIG,
    WRONG_SETTINGS,
    broken,
    member_name,
    write_config,
)
from geobiomass.training.setting_names import explain_arguments

from .model import PastureModel, check_share
from .photos import PhotoSource
from .regressor import PastureRegressor
from .scaling import units_of
from .scores import SCORE, summarise
from .sums import with_sums

__all__ = ["PastureEnsemble"]


@explain_arguments
class PastureEnsemble(PastureModel):
    """An ensemble of regressors, such as the members of `pasture.fit` with folds.

    Parameters
    ----------
    members
        Fitted regressors with the same targets.
    blend
        Share of the single-stream members (whole photos) where there are also
        dual-stream members (halves), from 0 to 1.

    Attributes
    ----------
    scores
        Scores of each member on the photos held out from it, and of all together.

    Raises
    ------
    ValueError
        There is no member, members differ in targets, or the share is out of range.
    NotFittedError
        A member is not fitted.
    """

    def __init__(self, members: Sequence[PastureRegressor], blend: float = 0.5) -> None:
        targets = {member.targets for member in members}
        if len(targets) != 1:
            raise ValueError(
                "members of a PastureEnsemble must be one or more with the same "
                f"targets, got {len(members)} with {sorted(targets)}"
            )
        check_share(blend)
        for member in members:
            member.check_fitted()
        self.members = tuple(members)
        self.blend = blend
        self.targets = self.members[0].targets

    def __repr__(self) -> str:
        """Return a one-line description."""
        parts = [f"{len(ms)} {stream}" for stream, ms in self.streams.items()]
        stopped = f", {self.interrupted}" if self.interrupted else ""
        return f"PastureEnsemble({', '.join(parts)}: {self.members[0]!r}, ...{stopped})"

    @property
    def streams(self) -> dict[str, list[PastureRegressor]]:
        """Members by stream, "single" first."""
        streams: dict[str, list[PastureRegressor]] = {}
        for name in ("single", "dual"):
            if found := [m for m in self.members if m.recipe.stream == name]:
                streams[name] = found
        return streams

    def predict(
        self, photos: PhotoSource, flips: bool = True, blend: float | None = None
    ) -> pd.DataFrame:
        """Predict grams: the mean over members and mirror images, streams blended.

        If there are several GPUs, members run on them in parallel. The result does not
        depend on the number of GPUs.

        Parameters
        ----------
        photos
            Photos as `pasture.read_photos` returns them, of which only ``path`` is
            used; or what it reads: a table's file, a folder, a photo, or a list.
        flips
            Whether to predict mirror images too and average. False halves the time.
        blend
            Share of the single stream; by default the ensemble's `blend`.

        Returns
        -------
        pandas.DataFrame
            Grams, as `PastureRegressor.predict` returns them.

        Raises
        ------
        PhotoError
            `photos` has no ``path``, or a photo cannot be read.
        ValueError
            The share is out of range.
        """
        share = check_share(self.blend if blend is None else blend)
        photos = self._table(photos)
        every = dict(zip(self.members, self._predict(photos, flips), strict=True))
        means = {
            stream: np.mean([every[member] for member in members], axis=0)
            for stream, members in self.streams.items()
        }
        grams = self._blended(means, share)
        return pd.DataFrame(grams, index=photos.index, columns=list(self.targets))

    @property
    def ratio(self) -> float:
        """The longer divided by the shorter side of the photos it was trained on."""
        return self.members[0].ratio

    def _predict(self, photos: pd.DataFrame, flips: bool) -> list[np.ndarray]:
        devices = self.members[0].devices()
        shown = any(member.recipe.training.progress for member in self.members)
        total = len(photos) * len(self.members)
        free: SimpleQueue[torch.device] = SimpleQueue()
        for device in devices:
            free.put(device)
        with tqdm(total=total, desc="predict", unit="photo", disable=not shown) as bar:

            def run(member: PastureRegressor) -> np.ndarray:
                device = free.get()
                try:
                    table = member.predict_on(device, photos, flips, bar.update)
                finally:
                    free.put(device)
                return table.to_numpy()

            if len(devices) == 1:  # in the main thread, so that Ctrl-C interrupts it
                return [run(member) for member in self.members]
            with ThreadPoolExecutor(len(devices)) as pool:
                return list(pool.map(run, self.members))

    def _blended(self, means: Mapping[str, np.ndarray], blend: float) -> np.ndarray:
        shares = {"single": blend, "dual": 1 - blend}
        if len(means) == 1:
            (grams,) = means.values()
        else:
            parts = [shares[stream] * mean for stream, mean in means.items()]
            grams = np.sum(parts, axis=0)
        return with_sums(grams) if self.members[0].recipe.adds_up else grams

    @property
    def held_out(self) -> pd.DataFrame:
        """Out-of-fold predictions: each member's, of the photos held out from it.

        One row per photo that was held out in every stream. The streams are blended; if
        several members of a stream held a photo out, their mean is used. Columns as in
        `PastureRegressor.held_out`.
        """
        names = list(self.targets)
        tables = {stream: _mean_held_out(ms) for stream, ms in self.streams.items()}
        tables = {stream: table for stream, table in tables.items() if len(table)}
        if len(tables) < len(self.streams):
            return pd.DataFrame()
        first, *others = tables.values()
        shared = first.index
        for table in others:
            shared = shared.intersection(table.index)
        means = {s: table.loc[shared, names].to_numpy() for s, table in tables.items()}
        held = first.loc[shared].copy()
        held[names] = self._blended(means, self.blend)
        return held

    @property
    def scores(self) -> pd.DataFrame:
        """Scores of members on the photos held out from them.

        One row per member, then one per stream and one for all photos together:
        ``photos``, ``weighted R2`` (pooled), ``mean R2`` and ``RMSE`` of all targets,
        g. Empty if no photos were held out.
        """
        rows: dict[str, dict[str, float]] = {}
        for stream, members in self.streams.items():
            folds = [_score(m.held_out, m.targets) for m in members if len(m.held_out)]
            rows |= {f"{stream}, fold {n}": row for n, row in enumerate(folds, 1)}
            if len(folds) > 1:
                held = _mean_held_out(members)
                rows[f"{stream}, all"] = _score(held, self.targets)
        if len(self.streams) > 1 and len(self.held_out):
            rows["single and dual"] = _score(self.held_out, self.targets)
        return pd.DataFrame(rows).T.astype({"photos": int}) if rows else pd.DataFrame()

    def best_member(self, stream: str | None = None) -> PastureRegressor:
        """Return the member with the highest score on the photos held out from it.

        Parameters
        ----------
        stream
            Only members of this stream are compared, if there are any.

        Raises
        ------
        NotFittedError
            There are several members, and no photos were held out from any.
        """
        members = self.streams.get(stream or "", list(self.members))
        if len(members) == 1:
            return members[0]
        judged = [m for m in members if len(m.held_out)]
        if not judged:
            raise NotFittedError(
                "a PastureEnsemble must have members with photos held out, got "
                f"{len(members)} without any, so that none is best; choose one of its "
                "members"
            )
        return max(judged, key=lambda m: _score(m.held_out, m.targets)[SCORE])

    def _write(self, folder: Path) -> None:
        names = [member_name(number) for number in range(1, len(self.members) + 1)]
        for name, member in zip(names, self.members, strict=True):
            (folder / name).mkdir()
            member._write(folder / name)
        settings = {
            "members": names,
            "blend": self.blend,
            "targets": list(self.targets),
            "units": units_of(self.targets),
        }
        content = {
            "class": type(self).__name__,
            "loader": self.load_call,
            "settings": settings,
            **self._marked(),
        }
        write_config(folder, content)
        (folder / CARD).write_text(self._card(), encoding="utf-8")

    def _card(self) -> str:
        scores = self.scores
        judged = "No photos were held out."
        if len(scores):
            judged = f"On photos held out:\n\n```\n{scores.round(3).to_string()}\n```"
        if self.interrupted:
            judged = f"**Not fully trained**: {self.interrupted}.\n\n{judged}"
        return (
            "---\nlibrary_name: geobiomass\n---\n\n# Grams of grass from photos\n\n"
            f"An ensemble of {len(self.members)} models, made by geobiomass's "
            f"`pasture`. Load it with `{self.load_call}`.\n\n{judged}\n"
        )

    @classmethod
    def _read(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        settings = config["settings"]
        try:
            names = list(settings["members"])
            if any(member_name(i) != name for i, name in enumerate(names, 1)):
                raise ValueError(f"members are {names}")
            members = [PastureRegressor.load(folder / name) for name in names]
            return cls(members, settings["blend"])
        except ModelError:
            raise
        except WRONG_SETTINGS as error:
            raise broken(folder / CONFIG, repr(error)) from error


def _mean_held_out(members: Sequence[PastureRegressor]) -> pd.DataFrame:
    tables = [member.held_out for member in members if len(member.held_out)]
    if not tables:
        return pd.DataFrame()
    return pd.concat(tables).groupby(level=0, sort=False).mean()


def _score(held: pd.DataFrame, targets: Sequence[str]) -> dict[str, float]:
    names = list(targets)
    measured = held[[f"measured_{name}" for name in names]].set_axis(names, axis=1)
    return {"photos": len(held)} | summarise(held[names], measured)
