"""One model, checked for real: bitwise against eager, low-mode forward and backward, a finite gradient everywhere."""

from __future__ import annotations

import resource
import time
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lowmode_fx.config import LowModeConfig
from lowmode_fx.downsampling import downsample
from lowmode_fx.export_tracer import trace_by_export
from lowmode_fx.fx_tracer import trace_symbolically
from lowmode_fx.models import create_model
from lowmode_fx.pair import ModePair, build_pair
from lowmode_fx.step_flops import count_forward_macs
from lowmode_fx.tracing import TraceError
from passes import PassError
from passes.match import conv_sites

from .record import Record
from .zoo import family, image_shape, part

#: Largest model whose gradients are computed; above it, the pair is built and counted, and run without gradients.
GRADIENT_LIMIT = 400_000_000
SMALL_SIDE = 128


class WrongPairError(AssertionError):
    """A pair that ``build_pair`` gave and that a check found wrong."""


def check_model(name: str) -> Record:
    """Build, check and count one model. Never raises: what went wrong is in the record."""
    began = time.perf_counter()
    record = Record(name, family(name), "error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record = _checked(record, name)
    except (PassError, TraceError) as error:
        record = replace(record, status="refused", reason=str(error))
    except WrongPairError as error:
        record = replace(record, status="wrong", reason=str(error))
    except Exception as error:
        record = replace(record, reason=f"{type(error).__name__}: {error}".splitlines()[0][:300])
    return replace(record, seconds=round(time.perf_counter() - began, 2))


def _checked(record: Record, name: str) -> Record:
    torch.manual_seed(0)
    whole = create_model(name)
    model = whole.get_submodule(part(name)) if part(name) else whole
    model.train()
    record = replace(record, parameters=sum(parameter.numel() for parameter in model.parameters()))
    if not any(_slides(module) for module in model.modules()):
        return replace(record, status="nothing", reason="no convolution with a kernel larger than its stride")
    shape = image_shape(name, whole)
    pair, shape, seconds, megabytes = _build(model, shape)
    record = replace(
        record,
        input_size=shape,
        downsample_input=pair.config.downsample_input,
        front_end=pair.report.front_end,
        poolable_convs=sum(any(k > s for k, s in zip(c.kernel, c.stride, strict=True)) for c in conv_sites(pair.full)),
        pooled_convs=len(pair.report.pooled),
        build_seconds=round(seconds, 3),
        peak_mb=round(megabytes, 1),
    )
    record = replace(record, trace_seconds=round(_trace_seconds(pair, shape), 3))
    full_macs, low_macs = count_forward_macs(pair)
    record = replace(record, full_macs=full_macs, low_macs=low_macs)
    checked_at = _run(pair, shape, gradients=record.parameters <= GRADIENT_LIMIT)
    return replace(record, status="right", checked_at=checked_at)


def _slides(module: nn.Module) -> bool:
    conv = isinstance(module, nn.modules.conv._ConvNd)
    return conv and any(k > s for k, s in zip(module.kernel_size, module.stride, strict=True))  # type: ignore[arg-type]


def _build(model: nn.Module, shape: tuple[int, ...]) -> tuple[ModePair, tuple[int, ...], float, float]:
    """The pair at the model's own size; else at one that halves more often; else with whole images."""
    rounded = (shape[0], *(-(-side // 64) * 64 for side in shape[1:]))
    choices = [(shape, True), *([(rounded, True)] if rounded != shape else []), (shape, False)]
    refusal: Exception | None = None
    for size, halved in choices:
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        try:
            pair = build_pair(model, torch.empty(2, *size), LowModeConfig(downsample_input=halved))
        except (PassError, TraceError) as error:
            refusal = refusal or error
            continue
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        return pair, size, time.perf_counter() - began, peak / 1024
    assert refusal is not None
    raise refusal


def _trace_seconds(pair: ModePair, shape: tuple[int, ...]) -> float:
    """What the front end alone takes, to compare building with."""
    began = time.perf_counter()
    if pair.report.front_end == "fx":
        trace_symbolically(pair.model)
    else:
        trace_by_export(pair.model, torch.empty(2, *shape))
    return time.perf_counter() - began


def _run(pair: ModePair, shape: tuple[int, ...], gradients: bool) -> tuple[int, ...]:
    """Run the model and both graphs, on small images where the model takes them; returns the size that served."""
    small = (shape[0], *(min(side, SMALL_SIDE) for side in shape[1:]))
    if small != shape and pair.report.front_end == "fx" and pair.config.downsample_input:
        try:
            _compare(pair, torch.randn(2, *small), gradients)
            return small
        except WrongPairError:
            raise
        except Exception:
            pair.model.zero_grad(set_to_none=True)  # a size that the model itself does not take
    _compare(pair, torch.randn(2, *shape), gradients)
    return shape


def _compare(pair: ModePair, images: Tensor, gradients: bool) -> None:
    model = pair.model
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with torch.set_grad_enabled(gradients):
        expected, eager = _step(model, model, images, gradients)
        changed = {name: value.clone() for name, value in model.named_buffers()}
        _restore(model, buffers)
        found, full = _step(model, pair.full, images, gradients)
    _demand(
        len(expected) == len(found) and all(map(torch.equal, expected, found)), "full-mode outputs differ from eager"
    )
    _demand(all(torch.equal(value, changed[name]) for name, value in model.named_buffers()), "full-mode buffers differ")
    _demand(eager.keys() == full.keys(), "full-mode gives other parameters a gradient")
    unequal = [name for name in eager if not torch.equal(eager[name], full[name])]
    _demand(not unequal, f"full-mode gradient differs from eager at {unequal[:3]}")
    eager.clear()
    _restore(model, buffers)
    low_images = downsample(images, pair.config.ratio) if pair.config.downsample_input else images
    with torch.set_grad_enabled(gradients):
        outputs, low = _step(model, pair.low, low_images, gradients)
    _demand(all(value.isfinite().all() for value in outputs), "low-mode output is not finite")
    statistics = ((name, value) for name, value in model.named_buffers() if "running_" in name)
    moved = [name for name, value in statistics if not torch.equal(value, buffers[name])]
    _demand(not moved, f"low-mode moved the running statistics {moved[:3]}")
    missing = [name for name in full if name not in low or not low[name].isfinite().all()]
    _demand(not missing, f"no finite low-mode gradient at {missing[:3]}")


def _step(
    model: nn.Module, forward: nn.Module, images: Tensor, gradients: bool
) -> tuple[list[Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)
    outputs = [leaf for leaf in tree_leaves(forward(images)) if isinstance(leaf, Tensor)]
    if gradients:
        torch.autograd.backward([_loss(output) for output in outputs if output.requires_grad])
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    return [output.detach() for output in outputs], found


def _loss(output: Tensor) -> Tensor:
    return output.square().mean() if output.is_floating_point() else output.abs().square().mean()


def _restore(model: nn.Module, buffers: dict[str, Any]) -> None:
    with torch.no_grad():
        for name, value in model.named_buffers():
            value.copy_(buffers[name])


def _demand(condition: Any, what: str) -> None:
    if not condition:
        raise WrongPairError(what)
