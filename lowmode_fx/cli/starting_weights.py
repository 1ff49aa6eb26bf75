"""What a run's model starts from: drawn weights, published ones (``--pretrained``) or a file's (``--weights``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.errors import OptionError

if TYPE_CHECKING:
    from torch import nn

    from lowmode_fx.train.splits import DataSplits


@dataclass(frozen=True)
class StartingWeights:
    """``pretrained``: those that timm or torchvision publish. ``file``: a state dict, or a run folder."""

    pretrained: bool = False
    file: Path | None = None

    def check(self, resume: bool) -> None:
        """Raises ``OptionError`` for two sources, and for a file that isn't there, unless a run may go on without."""
        if self.pretrained and self.file is not None:
            raise OptionError("weights", self.file, "excludes --pretrained", "give one of them")
        if self.file is not None and not resume and not self.file.exists():
            raise OptionError("weights", self.file, "does not exist", "give a state_dict's file, or a run folder")

    def identity(self) -> dict[str, Any]:
        """What a run and its continuation share; of drawn weights nothing, as in older checkpoints."""
        if self.pretrained:
            return {"weights": "pretrained"}
        return {} if self.file is None else {"weights": str(self.file)}

    def build(
        self, name: str, splits: DataSplits, *, in_chans: int, image_size: int | None, resumes: bool
    ) -> tuple[nn.Module, DataSplits, tuple[str, ...]]:
        """The model on the CPU, the data as its weights expect it, and lines about them.

        resumes: weights come from a checkpoint, so none are loaded here. Raises ``ValueError`` for weights that can't
        be had, or don't fit.
        """
        from lowmode_fx.cli.models import create_model
        from lowmode_fx.cli.pretrained import pretrained_model

        classes = splits.num_classes
        given: Mapping[str, Any] = {"num_classes": classes, "in_chans": in_chans, "image_size": image_size}
        if self.pretrained and not resumes:
            model, lines = pretrained_model(name, **given)
        else:
            model, lines = create_model(name, **given), ()
        if self.pretrained:
            splits, more = _normalised_for(name, model, splits)
            return model, splits, (*lines, *more)
        if self.file is None or resumes:
            return model, splits, lines
        from lowmode_fx.train.weights import load_all_but_head, read_weights

        left_out = load_all_but_head(
            model, read_weights("weights", self.file), classes, f"--weights {str(self.file)!r}"
        )
        head = f"; left out, as it is of other classes: {', '.join(left_out)}" if left_out else ""
        return model, splits, (f"weights: {self.file}{head}",)


def _normalised_for(name: str, model: nn.Module, splits: DataSplits) -> tuple[DataSplits, tuple[str, ...]]:
    """The data with the mean and deviation that published weights were trained with, where these are known."""
    from lowmode_fx.cli.pretrained import pretrained_statistics

    found = pretrained_statistics(name, model)
    if found is None or len(found[0]) != len(splits.mean):
        return splits, ()
    mean, std = (", ".join(f"{value:g}" for value in each) for each in found)
    line = f"images are normalised as for the pretrained weights: mean {mean}; deviation {std}"
    return replace(splits, mean=found[0], std=found[1]), (line,)
