"""A trial of a low mode whose images the model's own code does not take at first sight."""

from __future__ import annotations

import warnings

import torch

from lowmode_fx.lowering.ladder import Ladder, Rung
from lowmode_fx.lowering.live import LiveLowering
from passes import PassError
from passes.errors import Way, whole_images
from passes.preserve import preserve_state, train_mode
from passes.wording import first_line, sides


def try_step(ladder: Ladder, rung: Rung) -> None:
    """Run the forward of a low step on blank images; the model is left as it was.

    A graph shows maps whose sizes the model fixes, which a low mode may resize, but not the checks in its Python code.

    Raises ``PassError`` with the model's error if the forward fails.
    """
    model, inputs = ladder.model, rung.inputs
    args, kwargs = inputs.call(inputs.blank_for(model))
    with warnings.catch_warnings(), preserve_state(model, gradients=True), train_mode(model), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            LiveLowering(ladder, rung.mode).run(*args, **kwargs)
        except Exception as error:
            raise PassError(
                f"the model itself can't take {sides(inputs.image.shape[2:])} inputs: {first_line(error)}",
                *(Way("make the model take images of other sizes"), whole_images()),
            ) from error
