"""Usable model of a training that Ctrl-C, or a notebook, interrupted.

The exception carries the model, with its last weights, up to the call that the user
made. `kept_if_interrupted` saves it there, in the training's folder, and names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .estimator import SavedModel

__all__ = ["SUBFOLDER", "UnfinishedTraining", "save_unfinished"]

SUBFOLDER = "interrupted"
"""Where in the training's folder the model is saved."""


class UnfinishedTraining(KeyboardInterrupt):
    """Ctrl-C in a training of which a model is usable.

    Parameters
    ----------
    message
        The last step that is kept, and how to go on.
    model
        The model, with ``model.interrupted``; None if it is saved, and the message
        names its folder.
    load_line
        The line that loads it, once it is saved.
    """

    def __init__(self, message: str, model: Any = None, load_line: str = "") -> None:
        super().__init__(message)
        self.model, self.load_line = model, load_line


def save_unfinished(model: SavedModel, folder: Path) -> tuple[str, str]:
    """Save a model in a training's folder; return a sentence and the line to load it.

    The line is empty if the model cannot be saved, and the sentence says why.
    """
    path = folder.absolute() / SUBFOLDER
    try:
        model.save(path)
    except (OSError, ValueError) as error:
        return f"The model so far is not saved: {error}", ""
    except KeyboardInterrupt:
        return "The model so far is not saved: interrupted again", ""
    line = f"model = {model.load_call.replace('folder', repr(str(path)))}"
    return f"A usable model, {model.interrupted}: {line}", line
