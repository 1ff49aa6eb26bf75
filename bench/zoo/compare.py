"""Is a pair right? The model, both graphs and an eager low-mode each take a step; what must agree is compared."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench.zoo.eager import EagerLowMode
from lowmode_fx.lowering.downsampling import downsample
from lowmode_fx.lowering.ladder import ModePair
from passes.pooling_rule import NOT_TRACED
from passes.preserve import preserve_state

#: How far an eager low-mode may be off: other kernels sum in another order where padding is spelled differently.
TOLERANCE = 1e-3
NOISE = 1e-6
#: Gates that are closer to zero than this count as shut.
SHUT = 0.1

Step = tuple[list[Tensor], dict[str, Tensor]]


class WrongPairError(AssertionError):
    """A pair that ``build_pair`` gave and that a check found wrong."""


def compare(pair: ModePair, images: Tensor, gradients: bool) -> None:
    """Check one step of ``images`` ``(N, C, *S)`` in each mode, with ``gradients`` or forward alone.

    Full-mode must equal the eager model bit for bit: outputs, buffers, gradients. Low-mode must give finite outputs, a
    finite gradient wherever full-mode gives one, move no running statistic, and agree with an eager low-mode. Where the
    low graph gives a map its full-mode size, that last comparison is of outputs on whole images, which leave maps as
    they are.

    Raises ``WrongPairError``; the model is left as it was, gradients aside.
    """
    model = pair.model
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with preserve_state(model):
        outputs, eager = _step(model, model, images, gradients)
        changed = {name: value.clone() for name, value in model.named_buffers()}
    with preserve_state(model):
        found, full = _step(model, pair.full, images, gradients)
        moved = [name for name, value in model.named_buffers() if not torch.equal(value, changed[name])]
    same = len(outputs) == len(found) and all(map(torch.equal, outputs, found))
    _require(same, "full-mode outputs differ from eager")
    _require(not moved, f"full-mode buffers differ: {moved[:3]}")
    _require(eager.keys() == full.keys(), "full-mode gives other parameters a gradient")
    unequal = [name for name in eager if not torch.equal(eager[name], full[name])]
    _require(not unequal, f"full-mode gradient differs from eager at {unequal[:3]}")
    expected = set(full)
    del eager, full

    low_images = downsample(images, pair.config.ratio) if pair.config.downsample_input else images
    with preserve_state(model):
        low_outputs, low = _step(model, pair.low, low_images, gradients)
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        kept = ((name, value) for name, value in model.named_buffers() if name.rpartition(".")[2] in statistics)
        moved = [name for name, value in kept if not torch.equal(value, buffers[name])]
    _require(all(value.isfinite().all() for value in low_outputs), "low-mode output is not finite")
    _require(not moved, f"low-mode moved the running statistics {moved[:3]}")
    missing = [name for name in expected if name not in low or not low[name].isfinite().all()]
    _require(not missing, f"no finite low-mode gradient at {sorted(missing)[:3]}")
    if is_adapted(pair):
        low_images, gradients = images, False  # the outputs tell; whole images are dear
        with preserve_state(model):
            low_outputs, low = _step(model, pair.low, low_images, gradients)
    mode = EagerLowMode(pair.config.effective_kernel_ratio, _untraced_weights(pair))
    with preserve_state(model):
        expected_step = _step(model, model, low_images, gradients, mode)
    _compare_low((low_outputs, low), expected_step)


def undo_zero_init(model: nn.Module) -> None:
    """Draw anew what is initialised to about zero, to shut a branch off: last norms, layer scales, skip gains.

    Behind them every gradient is zero, and nothing could be found wrong.
    """
    with torch.no_grad():
        for name, value in model.named_parameters():
            constant = value.numel() > 0 and bool((value == value.flatten()[0]).all())
            if constant and value.flatten()[0].abs() < SHUT and not name.endswith("bias"):
                value.uniform_(0.5, 1.5)


def is_adapted(pair: ModePair) -> bool:
    """Whether the low graph holds maps to sizes of full-mode, so that it is for one image size."""
    return any(report.changes for report in pair.report.passes if report.name in ("adapt_heads", "resize_head"))


def _compare_low(found: Step, expected: Step) -> None:
    outputs, gradients = found
    reference, slopes = expected
    _require(len(outputs) == len(reference), "low-mode returns other tensors than an eager low-mode")
    pairs = [("output", ours, theirs) for ours, theirs in zip(outputs, reference, strict=True)]
    pairs += [(f"gradient of {name}", gradients[name], slope) for name, slope in slopes.items() if name in gradients]
    largest = max((slope.abs().max().item() for slope in slopes.values() if slope.numel()), default=0.0)
    for what, ours, theirs in pairs:
        _require(ours.shape == theirs.shape, f"the low-mode {what} has another shape than an eager low-mode's")
        if ours.numel() and not torch.equal(ours, theirs):
            # Each by its own scale; what is nothing but rounding noise beside the largest gradient has none.
            noise = NOISE * largest if what.startswith("gradient") else 0.0
            error, scale = (ours - theirs).abs().max().item(), theirs.abs().max().item()
            off = f"the low-mode {what} is off an eager low-mode's by {error / (scale or 1.0):.0e} of its scale"
            _require(error <= max(TOLERANCE * scale, noise), off)


def _step(
    model: nn.Module, forward: Callable[[Tensor], Any], images: Tensor, gradients: bool, mode: Any = None
) -> Step:
    """Outputs of one forward and the gradients of their mean squares, by parameter name; the same seed each time."""
    torch.manual_seed(0)
    with torch.set_grad_enabled(gradients), mode or nullcontext():
        outputs = [leaf for leaf in tree_leaves(forward(images)) if isinstance(leaf, Tensor)]
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
