"""Recomputes running statistics from training batches at the end of a run ("Rethinking Batch in BatchNorm", §3)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.utils.validation import as_count, wrong_type
from passes.preserve import preserve_state, train_mode
from passes.wording import one_line


class StatisticsError(ValueError):
    """Running statistics that can't be computed anew: the ``problem``, and what to do."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(f"{problem}; {hint}")
        self.problem = problem


def recompute_statistics(model: nn.Module, images: Iterable[Tensor], batches: int = 100) -> None:
    """Compute the running statistics of every batch norm anew, from training batches in full-mode, at fixed weights.

    Low steps leave running statistics alone (``batchnorm="isolate"``), so after a short full tail they are old, and
    evaluation suffers. Call it once, after training. Values change in place; weights, counters, modes and generators
    stay as they were, and all else too where it fails. Norms that don't run, or have a momentum of 0, keep theirs.

    Args:
        model: The model, or the net that trains it.
        images: Batches of training images ``(N, C, *S)``, of full size.
        batches: Largest number of them that are used; about 100 are enough.

    Raises:
        TypeError: ``images`` are no batches, or hold labels too.
        ValueError: fvcore is missing, a norm runs twice in a forward or keeps no statistics, or there is no
            batch, or ``batches`` is below 1.

    Source: ``fvcore.nn.precise_bn``, after Wu and Johnson, "Rethinking Batch in BatchNorm" (2021), §3.
    """
    if isinstance(model, LowModeModel):
        model = model.ladder.model
    as_count("batches", batches, 1)
    if not isinstance(model, nn.Module):
        raise wrong_type("model", model, "the model, or the net that trains it")
    if not isinstance(images, Iterable) or (isinstance(images, Tensor) and images.ndim < 5):
        raise wrong_type("images", images, "batches of images (N, C, *S): (images for images, _ in loader)")
    from_fvcore = require_fvcore()
    norms = [module for module in model.modules() if isinstance(module, from_fvcore.BN_MODULE_TYPES)]
    if any(norm.running_mean is None for norm in norms):
        raise StatisticsError("a norm keeps no running statistics", "leave the model as it is")
    found = list(itertools.islice(images, batches))
    if not found:
        raise ValueError("images gives no batch; give batches of images (N, C, *S): (images for images, _ in loader)")
    if any(_holds_labels(each) for each in found):
        raise TypeError(
            "images gives pairs of images and labels; give the images alone: (images for images, _ in loader)"
        )
    old = [(norm.running_mean, norm.running_var) for norm in norms]
    ran: set[nn.Module] = set()
    # fvcore puts new tensors in the buffers' places, which compiled graphs would not see, and takes its hooks away only
    # where nothing fails.
    with preserve_state(model), train_mode(model):
        hooks = [norm.register_forward_pre_hook(lambda norm, _: ran.add(norm)) for norm in norms]
        try:
            from_fvcore.update_bn_stats(model, found, len(found))
        except AssertionError as error:
            raise StatisticsError(one_line(error).rstrip("."), "leave the model as it is") from error
        finally:
            for hook in hooks:
                hook.remove()
        new = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
        # Of norms that ran, and whose statistics move at all: the others keep theirs.
        moved = [norm in ran and norm.momentum != 0 for norm in norms]
    with torch.no_grad():
        for statistics, values in itertools.compress(zip(old, new, strict=True), moved):
            for statistic, value in zip(statistics, values, strict=True):
                statistic.copy_(value)


def _holds_labels(batch: Any) -> bool:
    """Whether a batch is a pair of images and integer labels, as loaders give them."""
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        return False
    return not batch[1].is_floating_point()


def require_fvcore() -> Any:
    """fvcore's module, for a run to know before it starts. Raises ``StatisticsError`` where it is missing."""
    try:
        from fvcore.nn import precise_bn
    except ImportError as error:
        raise StatisticsError("fvcore is missing, which computes running statistics", "pip install fvcore") from error
    return precise_bn
