"""A part of a network that does not learn, for some epochs or for all."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .settings import TrainingConfig

__all__ = ["Frozen"]


@dataclass(frozen=True)
class Frozen:
    """A part of a network that keeps its weights and the statistics of its norms.

    Parameters
    ----------
    part
        Name of the part, a submodule of the network.
    epochs
        Number of first epochs, counted over all stages; None: all epochs.
    learning
        Names of weights of the part that learn nevertheless.
    """

    part: str
    epochs: int | None = None
    learning: tuple[str, ...] = ()

    def check(self, config: TrainingConfig) -> None:
        """Check that the processes of a training can freeze the part.

        Raises
        ------
        ValueError
            If several processes train and the part is frozen for some epochs only:
            they agree at the start on the weights that learn.
        """
        if self.epochs is not None and config.ranks > 1:
            raise ValueError(
                f"{self.part} can be frozen for {self.epochs} epochs in one process "
                f"only, got {config.ranks} processes; freeze it for all epochs, or "
                "give devices=1"
            )

    def apply(self, network: nn.Module, epoch: int) -> None:
        """Freeze the part, or let it learn, as an epoch has it.

        Parameters
        ----------
        network
            In training mode.
        epoch
            From 0, counted over all stages.
        """
        frozen = self.epochs is None or epoch < self.epochs
        part = network.get_submodule(self.part)
        part.train(not frozen)  # norms neither use nor learn statistics of a batch
        for name, weight in part.named_parameters():
            weight.requires_grad_(not frozen or name in self.learning)

    def release(self, network: nn.Module) -> None:
        """Let all weights of the part learn again, in a later training."""
        network.get_submodule(self.part).requires_grad_(True)
