"""Options of the command lines by the names that users have from elsewhere."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from .setting_names import other_names

__all__ = ["ExplainingGroup"]


class ExplainingGroup(TyperGroup):
    """Group of commands that names the option that an unknown one is called here."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; name the option that may be meant if there is no such."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Releases of typer have click's exception, or a copy of it.
            if type(error).__name__ == "NoSuchOption":
                _explain(error)
            raise


def _explain(error: Any) -> None:
    known = {
        text.lstrip("-").replace("-", "_"): text
        for parameter in error.ctx.command.params
        for text in parameter.opts
        if text.startswith("--")
    }
    typed = error.option_name.lstrip("-").replace("-", "_")
    meant = [known[name] for name in other_names(typed, known)]
    # Settings of a recipe have no option of their own; --set explains them.
    if "set" in known:
        meant.append(f"--set {typed}=...")
    if meant:
        error.possibilities = meant
