"""The regressor of grams from photos: fit, predict, evaluate, save, load."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from geobiomass.network.saved_settings import check_count
from geobiomass.training import RegressionTask, TrainingResult, train
from geobiomass.training.checkpoint_record import LAST, is_begun, read_training_record
from geobiomass.training.estimator import Regressor
from geobiomass.training.losses import r2_loss
from geobiomass.training.metrics import WeightedR2
from geobiomass.training.model_folder import HELD_OUT, WRONG_SETTINGS, broken
from geobiomass.training.setting_names import explain_arguments
from geobiomass.training.usable_model import train_or_keep

from .inspection import common_ratio, inspect_files, raise_problems
from .loader import PhotoError, PhotoLoader
from .model import PastureModel, check_columns, read_table, write_table
from .network import PastureNetwork
from .photos import PhotoSource, problems_of_table
from .recipes import PastureRecipe, find_recipe
from .sampling_dates import DATE as _DATE
from .sampling_dates import warn_of_single_groups, with_dates
from .scaling import scale_of, standardise, units_of
from .scores import weights_of
from .sums import reconcile, with_sums
from .training_checks import check_training_photos

__all__ = ["PastureRegressor", "Validation"]

Validation = pd.DataFrame | float | None

# Settings of a recipe that determine the weights, and that the trainer does not
# compare itself when training is resumed.
_COMPARED = ("height", "width", "flips", "jitter", "targets", "stream", "freeze")


@explain_arguments
class PastureRegressor(PastureModel, Regressor):
    """A regressor of grams from photos: a network and its recipe.

    Parameters
    ----------
    network
        A network with one output for each of the recipe's targets.
    recipe
        The size of photos and the training configuration. Its settings of the network
        are replaced by the settings of `network`.

    Attributes
    ----------
    history
        One row per epoch: losses, scores and the learning rate.
    held_out
        Predictions of the validation photos after training, averaged with those of
        their mirror images: one row per photo, a column per target and a column
        ``measured_<target>``. Empty without validation.

    Raises
    ------
    ValueError
        The network has another number of outputs, or does not accept photos of the
        recipe's size.
    """

    network: PastureNetwork

    def __init__(
        self, network: PastureNetwork, recipe: str | PastureRecipe = "seed"
    ) -> None:
        made = network.settings
        names = ("backbone", "stream", "freeze", "fusion")
        self.recipe = find_recipe(recipe, **{name: made[name] for name in names})
        self.targets = self.recipe.targets
        if made["targets"] != len(self.targets):
            raise ValueError(
                "targets of a PastureRegressor's network must be as many as the "
                f"recipe's ({', '.join(self.targets)}), {len(self.targets)}, got "
                f"{made['targets']}; build the network with targets="
                f"{len(self.targets)}"
            )
        network.check_size(self.recipe.height, self.recipe.width)
        self.network = network
        self.history = pd.DataFrame()
        self.held_out = pd.DataFrame()

    def __repr__(self) -> str:
        """Return a one-line description."""
        state = f"{len(self.history)} epochs" if self.fitted else "not fitted"
        state = self.interrupted or state
        recipe = self.recipe
        return (
            f"PastureRegressor({recipe.backbone}, {recipe.stream}, "
            f"{recipe.height} x {recipe.width}, {state})"
        )

    def fit(self, photos: pd.DataFrame, validation: Validation = None) -> Self:
        """Train the network on photos.

        Parameters
        ----------
        photos, validation
            As `pasture.fit` takes them.
        """
        config = self.recipe.training
        training, checking = _split(photos, validation, self.recipe)
        used = training if checking is None else pd.concat([training, checking])
        problems, inspected = inspect_files(used["path"])
        raise_problems(problems)
        check_training_photos(training, self.targets, stacklevel=3)
        if not self.network.is_scaled:
            self.network.set_scale(1.0 if self.fitted else self._scale(training))
        given = None
        if config.folder is not None:
            given = self._fingerprints(training, checking)
        weights = weights_of(self.targets)
        task = RegressionTask(
            self.network,
            partial(r2_loss, weights=weights),
            metrics={"weighted_r2": WeightedR2(weights)},
            augment=self.recipe.augmentation(),
        )
        loader = partial(self._loader, batch_size=config.batch_size)
        held = None if checking is None else loader(checking, shuffle=False)

        def learn() -> TrainingResult:
            with self.network.standardised():
                return train(task, loader(training), held, config, given=given)

        def finish(result: TrainingResult) -> None:
            ratio = common_ratio(inspected.values())
            self._finish(training, checking, ratio, result)

        train_or_keep(self, learn, self.network, [("", config)], finish)
        return self

    def _finish(
        self,
        training: pd.DataFrame,
        checking: pd.DataFrame | None,
        ratio: float | None,
        result: TrainingResult,
    ) -> None:
        """Set all that follows from the trained weights."""
        self.history = result.history
        self.fitted = True
        self.provenance = {
            "photos": {
                "training": len(training),
                "validation": 0 if checking is None else len(checking),
                "ratio": ratio,
            }
        }
        if checking is not None:
            self.held_out = self.predict(checking).join(
                checking[list(self.targets)].add_prefix("measured_")
            )

    def _scale(self, training: pd.DataFrame) -> tuple[float, ...]:
        """Return the scale of the targets, or that of the training that is resumed."""
        config = self.recipe.training
        if config.folder is not None and is_begun(config):
            record, _ = read_training_record(Path(config.folder) / LAST)
            if "scale" not in record.run.get("given", {}):
                # It was begun by a release that trained on the values as they are.
                return (1.0,) * len(self.targets)
        values = training[list(self.targets)].to_numpy(np.float64)
        return scale_of(values, self.targets)

    def _fingerprints(
        self, training: pd.DataFrame, checking: pd.DataFrame | None
    ) -> dict[str, Any]:
        """Return settings and fingerprints that must be the same to resume training."""
        plain = self.recipe.plain()
        held = None if checking is None else self._fingerprint(checking)
        return {name: plain[name] for name in _COMPARED} | {
            "photos": self._fingerprint(training),
            "validation photos": held,
            "first weights": _fingerprint_weights(self.network),
            "scale": list(self.network.settings["scale"]),
        }

    def _fingerprint(self, photos: pd.DataFrame) -> str:
        """Return a hash of the photos' names, order and grams; not of their paths."""
        grams = photos[list(self.targets)].to_numpy(np.float64)
        names = "\n".join(map(str, photos.index))
        digest = hashlib.sha256(names.encode() + grams.tobytes()).hexdigest()[:16]
        return f"{len(photos)} photos, {digest}"

    def _loader(
        self, photos: pd.DataFrame, batch_size: int, shuffle: bool = True
    ) -> PhotoLoader:
        known = photos.reindex(columns=list(self.targets)).to_numpy(np.float64)
        scale = self.network.settings["scale"] or [1.0] * len(self.targets)
        return PhotoLoader(
            tuple(photos["path"]),
            standardise(known, scale),
            self.recipe.height,
            self.recipe.width,
            batch_size,
            shuffle,
            self.recipe.training.seed,
        )

    def predict(
        self, photos: PhotoSource, flips: bool = True, blend: float | None = None
    ) -> pd.DataFrame:
        """Predict grams, the mean over each photo and its left-right mirror image.

        Photos are predicted one at a time, so that a prediction does not depend on the
        other photos. A GPU is used if there is one, unless the recipe says "cpu".

        Parameters
        ----------
        photos
            Photos as `pasture.read_photos` returns them, of which only ``path`` is
            used; or what it reads: a table's file, a folder, a photo, or a list.
        flips
            Whether to predict mirror images too and average (test-time augmentation).
            False halves the time.
        blend
            Must be None, because a single regressor has nothing to blend.

        Returns
        -------
        pandas.DataFrame
            Grams, or the unit of the training table, float64, on the photos' index: one
            column per target. ``GDM_g`` and
            ``Dry_Total_g`` are exactly the sums of their parts. A dual-stream network
            predicts only the parts. The five predictions of a single-stream network
            are replaced by the nearest values that add up (`pasture.sums.reconcile`).

        Raises
        ------
        NotFittedError
            The model is not fitted.
        PhotoError
            `photos` has no ``path``, or a photo cannot be read or has another shape
            than those in training.
        ValueError
            `blend` is given.
        """
        if blend is not None:
            raise ValueError(
                "blend must be left out for a model of one part, a PastureRegressor, "
                f"got {blend}; an ensemble of both streams takes it"
            )
        self.check_fitted()
        return self.predict_on(self.devices()[0], self._table(photos), flips)

    @property
    def ratio(self) -> float:
        """The longer divided by the shorter side of the photos it was trained on."""
        # Releases that did not note it took photos twice as wide as high only.
        return float(self.provenance.get("photos", {}).get("ratio", 2.0))

    def devices(self) -> list[torch.device]:
        """Return the devices to predict on: all GPUs, or the CPU.

        In training with several processes, each process has its own GPU.
        """
        cuda = torch.cuda.is_available() and self.recipe.training.accelerator != "cpu"
        if not cuda:
            return [torch.device("cpu")]
        every = [torch.device("cuda", n) for n in range(torch.cuda.device_count())]
        rank = os.environ.get("LOCAL_RANK")
        return every if rank is None else [every[int(rank) % len(every)]]

    def predict_on(
        self,
        device: torch.device,
        photos: pd.DataFrame,
        flips: bool = True,
        done: Callable[[], object] = lambda: None,
    ) -> pd.DataFrame:
        """Predict on one device.

        Parameters
        ----------
        device
            The device that the network runs on.
        photos, flips
            As in `predict`.
        done
            Function that is called after each photo.
        """
        loader = self._loader(photos, batch_size=1, shuffle=False)
        before = next(self.network.parameters()).device
        self.network.to(device).eval()
        rows = []
        try:
            with torch.inference_mode():
                for image, _ in loader.epoch(0):
                    rows.append(self._grams(image.to(device), flips))
                    done()
        finally:
            self.network.to(before)
        grams = torch.stack(rows).numpy()
        if self.recipe.adds_up:
            sums = self.network.settings["sums"]
            grams = with_sums(grams) if sums else reconcile(grams)
        return pd.DataFrame(grams, index=photos.index, columns=list(self.targets))

    def _grams(self, image: Tensor, flips: bool) -> Tensor:
        """Return (target,) float64 of one photo, (1, 3, y, x)."""
        if flips:
            image = torch.cat([image, image.flip(-1)])
        both: Tensor = self.network(image)
        return both.double().mean(0).cpu()

    def _settings(self) -> dict[str, Any]:
        network = dict(self.network.settings)
        if network["scale"] == [1.0] * len(self.targets):
            del network["scale"]  # as releases before the scale wrote it
        return {
            "network": network,
            "targets": list(self.targets),
            "units": units_of(self.targets),
            "recipe": self.recipe.plain(),
        }

    @classmethod
    def _from_settings(cls, settings: Mapping[str, Any]) -> Self:
        recipe = PastureRecipe.from_plain(settings["recipe"])
        # Settings cannot ask for weights, which are in the model's own folder.
        given = {k: v for k, v in settings["network"].items() if k != "pretrained"}
        check_count(given["targets"], "targets")
        if given["targets"] != len(recipe.targets):
            raise ValueError(
                f"targets of the network must be the recipe's {len(recipe.targets)}, "
                f"got {given['targets']}"
            )
        # Releases before the scale trained on the values as they are.
        return cls(PastureNetwork(**{"scale": 1.0, **given}), recipe)

    def _write(self, folder: Path) -> None:
        super()._write(folder)
        if len(self.held_out):
            write_table(self.held_out, folder / HELD_OUT)

    @classmethod
    def _read(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        model = super()._read(folder, config)
        if (folder / HELD_OUT).is_file():
            try:
                model.held_out = read_table(folder / HELD_OUT)
            except WRONG_SETTINGS as error:
                raise broken(folder / HELD_OUT, error) from error
        return model


def _fingerprint_weights(network: PastureNetwork) -> str:
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _split(
    photos: pd.DataFrame, validation: Validation, recipe: PastureRecipe
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the training and the validation photos, checked."""
    check_columns(photos, ["path", *recipe.targets])
    raise_problems(problems_of_table(photos, recipe.targets))
    if isinstance(validation, pd.DataFrame):
        check_columns(validation, ["path", *recipe.targets])
        raise_problems(problems_of_table(validation, recipe.targets))
        both = validation.index[validation["path"].isin(photos["path"])]
        if len(both):
            raise PhotoError(
                "validation must have photos that are not trained on, got "
                f"{len(both)} that are: {', '.join(map(str, both[:5]))}; remove them "
                "from one table"
            )
        return photos, validation
    fraction = recipe.validation_fraction if validation is None else validation
    if not 0 <= fraction < 1:
        raise ValueError(
            f"validation must be from 0 to below 1, got {fraction}; 0 is without "
            "validation"
        )
    if fraction == 0:
        return photos, None
    held = _hold_out(photos, fraction, recipe.training.seed)
    return photos[~held], photos[held]


def _hold_out(photos: pd.DataFrame, fraction: float, seed: int) -> pd.Series:
    """Choose validation photos by sampling date: photos of one day are correlated."""
    photos = with_dates(photos)
    dated = _DATE in photos
    codes = pd.factorize(photos[_DATE if dated else "path"], use_na_sentinel=False)[0]
    warn_of_single_groups(photos, stacklevel=5)
    count = int(codes.max()) + 1
    if count < 2:
        kind = "sampling dates" if dated else "photos"
        raise PhotoError(
            f"{kind} must be 2 or more to hold one out for validation, got {count}; "
            "give other photos as validation, or validation=0"
        )
    size = min(max(1, round(fraction * count)), count - 1)
    chosen = np.random.default_rng(seed).permutation(count)[:size]
    return pd.Series(np.isin(codes, chosen), index=photos.index)
