"""Is a pair right? A low step, a step of an eager low-mode and steps of proven graphs must agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bench.zoo.eager import EagerLowMode
from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.networks import network
from passes.pooling_rule import NOT_TRACED
from passes.preserve import preserve_state
from passes.trees import tree_leaves

#: Tolerance of the comparison with an eager low-mode, whose kernels may sum in another order if padding differs.
TOLERANCE = 1e-3
NOISE = 1e-6
#: Scales closer to zero than this count as zero.
SHUT = 0.1

Step = tuple[list[Tensor], dict[str, Tensor]]


class WrongPairError(AssertionError):
    """A pair that ``build_pair`` gave and that a check found wrong."""


def compare(pair: ModePair, leaves: Sequence[Tensor], gradients: bool, graphs: Sequence[ModePair] = ()) -> None:
    """Check one low step of ``leaves``, the tensors of a full-size call of the model, with or without ``gradients``.

    Low steps run as they do in training: the model itself, each call lowered as it is made. Such a step must give
    finite outputs, a finite gradient wherever the model gives one, move no buffer, and agree with an eager low-mode.
    If maps are resized to their full-mode size, that last comparison is of outputs on full-size images, where
    maps keep their size.

    ``graphs``: pairs of proven graphs of the same model: the full graph must do what the model does, and the low graph
        what the low step did, bit for bit.

    Raises ``WrongPairError``; the model is left as it was, except for gradients.
    """
    model = pair.model
    low_leaves = pair.inputs_of(Mode.LOW, leaves)
    whole = is_adapted(pair) or any(not each.report.any_size for each in graphs)
    # A step of the model itself, at the smaller size if it takes any.
    shown = leaves if whole else low_leaves
    with preserve_state(model):
        expected = _step(model, _call(pair, model), shown, gradients)
        moved_on = _buffers(model)
    for each in graphs:
        with preserve_state(model):
            found = _step(model, each.full, shown, gradients)
            _require_same(found, expected, f"{each.report.front_end}'s full-mode", "the model's")
            _require_unmoved(
                model, moved_on, f"{each.report.front_end}'s full-mode leaves other buffers than the model"
            )

    before = _buffers(model)
    low = _step(model, _call(pair, network(pair, Mode.LOW, downsample=True)), leaves, gradients)
    _require_unmoved(model, before, "a low step moves buffers")
    _require(all(value.isfinite().all() for value in low[0]), "low-mode output is not finite")
    missing = [name for name in expected[1] if name not in low[1] or not low[1][name].isfinite().all()]
    _require(not missing, f"no finite low-mode gradient at {sorted(missing)[:3]}")
    for each in graphs:
        with preserve_state(model):
            _require_same(_step(model, each.low, low_leaves, gradients), low, f"{each.report.front_end}'s low", "live")
    del expected

    if is_adapted(pair):
        low_leaves, gradients = list(leaves), False  # outputs are enough; full-size images are slow
        low = _step(model, _call(pair, network(pair, Mode.LOW)), low_leaves, gradients)
    mode = EagerLowMode(pair.config.effective_kernel_ratio, _untraced_weights(pair))
    with preserve_state(model):
        reference = _step(model, _call(pair, model), low_leaves, gradients, mode)
    _compare_low(low, reference)


def undo_zero_init(model: nn.Module) -> None:
    """Set random values for parameters that are initialised to about zero: last norms, layer scales, skip gains.

    With zeros, gradients before them are zero, and no error would show.
    """
    with torch.no_grad():
        for name, value in model.named_parameters():
            constant = value.numel() > 0 and bool((value == value.flatten()[0]).all())
            if constant and value.flatten()[0].abs() < SHUT and not name.endswith("bias"):
                value.uniform_(0.5, 1.5)


def is_adapted(pair: ModePair) -> bool:
    """Whether low-mode resizes maps to full-mode's sizes, so that it holds for one image size."""
    return any(report.changes for report in pair.report.passes if report.name in ("adapt_heads", "resize_head"))


def _call(pair: ModePair, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which takes the model's call, as a function of the tensors of that call."""

    def call(*leaves: Tensor) -> Any:
        args, kwargs = pair.inputs.call(leaves)
        return function(*args, **kwargs)

    return call


def _require_same(found: Step, expected: Step, what: str, other: str) -> None:
    (outputs, gradients), (others, slopes) = found, expected
    same = len(outputs) == len(others) and all(map(torch.equal, outputs, others))
    _require(same, f"{what} outputs are not {other}, bit for bit")
    _require(gradients.keys() == slopes.keys(), f"{what} and {other} give gradients to different parameters")
    unequal = [name for name in slopes if not torch.equal(gradients[name], slopes[name])]
    _require(not unequal, f"{what} gradient is not {other}, bit for bit, at {unequal[:3]}")


def _require_unmoved(model: nn.Module, before: dict[str, Tensor], what: str) -> None:
    now = dict(model.named_buffers())
    moved = [name for name in {**now, **before} if name not in now or name not in before]
    moved += [name for name in now if name in before and not torch.equal(now[name], before[name])]
    _require(not moved, f"{what}: {moved[:3]}")


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


def _compare_low(found: Step, expected: Step) -> None:
    outputs, gradients = found
    reference, slopes = expected
    _require(len(outputs) == len(reference), "low-mode and an eager low-mode return different tensors")
    pairs = [("output", ours, theirs) for ours, theirs in zip(outputs, reference, strict=True)]
    pairs += [(f"gradient of {name}", gradients[name], slope) for name, slope in slopes.items() if name in gradients]
    largest = max((slope.abs().max().item() for slope in slopes.values() if slope.numel()), default=0.0)
    for what, ours, theirs in pairs:
        _require(ours.shape == theirs.shape, f"the shape of the low-mode {what} differs from an eager low-mode's")
        if ours.numel() and not torch.equal(ours, theirs):
            # Each relative to its own scale; a gradient that is only rounding noise next to the largest has none.
            noise = NOISE * largest if what.startswith("gradient") else 0.0
            error, scale = (ours - theirs).abs().max().item(), theirs.abs().max().item()
            off = f"the low-mode {what} differs from an eager low-mode's by {error / (scale or 1.0):.0e} of its scale"
            _require(error <= max(TOLERANCE * scale, noise), off)


def _step(
    model: nn.Module, forward: Callable[..., Any], leaves: Sequence[Tensor], gradients: bool, mode: Any = None
) -> Step:
    """Outputs of one forward and the gradients of their mean squares, by parameter name; the same seed each time."""
    torch.manual_seed(0)
    with torch.set_grad_enabled(gradients), mode or nullcontext():
        outputs = [leaf for leaf in tree_leaves(forward(*leaves)) if isinstance(leaf, Tensor)]
    if gradients:
        torch.autograd.backward([_loss(output) for output in outputs if output.requires_grad])
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    return [output.detach() for output in outputs], found


def _loss(output: Tensor) -> Tensor:
    return output.square().mean() if output.is_floating_point() else output.abs().square().mean()


def _untraced_weights(pair: ModePair) -> frozenset[int]:
    paths = [skip.site for skip in pair.report.of("pool_weights").skips if skip.reason == NOT_TRACED]
    return frozenset(id(value) for path in paths for value in pair.model.get_submodule(path).parameters())


def _require(condition: Any, what: str) -> None:
    if not condition:
        raise WrongPairError(what)
