"""One model of the zoos: build its pair, time that, count both graphs, and check its low steps by running them."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.zoo.compare import WrongPairError, compare, is_adapted, undo_zero_init
from bench.zoo.measure import measure_build, proven_pair
from bench.zoo.names import create, example, family, image_shape, part
from bench.zoo.record import Record
from lowmode_fx.capture.capture import TraceError
from lowmode_fx.capture.frontends import FrontEndName
from lowmode_fx.capture.inputs import as_call
from lowmode_fx.counting.step import count_forward_macs
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.pair import build_pair
from passes import PassError
from passes.match import conv_sites
from passes.pool_weights import stem_nodes
from passes.pooling_rule import NOT_TRACED
from passes.preserve import preserve_state

#: Largest model whose gradients are computed; above it, the pair is built and counted, and run without gradients.
GRADIENT_LIMIT = 400_000_000
SMALL_SIDE = 96
#: Front ends whose graphs are proven, and run beside the model.
GRAPHS: tuple[FrontEndName, ...] = ("fx",)


def warm_up() -> None:
    """Build a pair once, so that no model's time includes what torch loads at first use."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    build_pair(model, torch.empty(2, 3, 16, 16), front_end="fx")


def check_model(name: str, graphs: Sequence[FrontEndName] = GRAPHS) -> Record:
    """Build, check and count one model. Never raises: errors are in the record.

    ``graphs``: front ends whose graphs are proven and compared with low steps of the model itself.
    """
    began = time.perf_counter()
    record = Record(name, "", "error")
    try:
        record = replace(record, family=family(name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record = _checked(record, name, graphs)
    except (PassError, TraceError) as error:
        record = replace(record, status="refused", reason=str(error))
    except WrongPairError as error:
        record = replace(record, status="wrong", reason=str(error))
    except Exception as error:
        record = replace(record, reason=f"{type(error).__name__}: {error}".splitlines()[0][:300])
    return replace(record, seconds=round(time.perf_counter() - began, 2))


def _checked(record: Record, name: str, graphs: Sequence[FrontEndName]) -> Record:
    if not _has_sliding_conv(name):
        return replace(record, status="nothing", reason="no convolution with a kernel larger than its stride")
    torch.manual_seed(0)
    whole = create(name)
    model = whole.get_submodule(part(name)) if part(name) else whole
    model.train()
    record = replace(record, parameters=sum(parameter.numel() for parameter in model.parameters()))
    pair, shape, reason = _build(model, name, image_shape(name, whole))
    sites = conv_sites(pair.full)
    stems = stem_nodes(pair.full, sites)
    sliding = [site for site in sites if any(k > s for k, s in zip(site.kernel, site.stride, strict=True))]
    if all(site.node in stems for site in sliding) and NOT_TRACED not in _skips(pair):
        return replace(record, status="nothing", reason="its only such convolution reads the image")
    given = example(name, shape)
    trace_seconds, build_seconds, megabytes = measure_build(pair, given)
    record = replace(
        record,
        reason=reason,
        input_size=shape,
        downsample_input=pair.config.downsample_input,
        resized_maps=sum(len(each.changes) for each in pair.report.passes if each.name == "resize_head"),
        front_end=pair.report.front_end,
        poolable_convs=len(sliding),
        pooled_convs=len(pair.report.pooled),
        trace_seconds=round(trace_seconds, 4),
        build_seconds=round(build_seconds, 4),
        peak_mb=round(megabytes, 1),
    )
    full_macs, low_macs = count_forward_macs(pair)
    record = replace(record, full_macs=full_macs, low_macs=low_macs)
    with contextlib.redirect_stderr(io.StringIO()):  # a graph that fails prints its code
        found = {each: proven_pair(pair, given, each) for each in graphs}
    record = replace(
        record,
        graphs={each: reason for each, (_, reason, _) in found.items()},
        proven_seconds={each: round(seconds, 2) for each, (_, _, seconds) in found.items()},
    )
    proven = [each for each, _, _ in found.values() if each is not None]
    gradients = record.parameters <= GRADIENT_LIMIT
    undo_zero_init(model)
    checked_at = _run(pair, name, shape, gradients, proven)
    return replace(record, status="right", checked_at=checked_at, gradients_checked=gradients)


def _skips(pair: ModePair) -> set[str]:
    return {skip.reason for skip in pair.report.of("pool_weights").skips}


def _has_sliding_conv(name: str) -> bool:
    try:
        with torch.device("meta"):  # no memory, no initialisation: large transformers end here
            whole = create(name)
    except (NotImplementedError, RuntimeError):
        whole = create(name)  # its constructor reads values, which meta tensors do not have
    return any(_slides(module) for module in whole.get_submodule(part(name)).modules())


def _slides(module: nn.Module) -> bool:
    conv = isinstance(module, nn.modules.conv._ConvNd)
    return conv and any(k > s for k, s in zip(module.kernel_size, module.stride, strict=True))  # type: ignore[arg-type]


def _build(model: nn.Module, name: str, shape: tuple[int, ...]) -> tuple[ModePair, tuple[int, ...], str]:
    """The pair, its image size and, if it was not the first attempt, the reason.

    Attempts: the model's own size, a size that can be halved more often, fixed maps resized, full-size images.
    """
    rounded = (shape[0], *(-(-side // 64) * 64 for side in shape[1:]))
    choices = [(shape, LowModeConfig()), (shape, LowModeConfig(adapt_head=True))]
    if rounded != shape:
        choices.insert(1, (rounded, LowModeConfig()))
    refusal: Exception | None = None
    for size, config in [*choices, (shape, LowModeConfig(downsample_input=False))]:
        try:
            pair = build_pair(model, example(name, size), config)
        except (PassError, TraceError) as error:
            refusal = refusal or error
            continue
        return pair, size, "" if refusal is None else str(refusal)
    assert refusal is not None
    raise refusal


def _run(
    pair: ModePair, name: str, shape: tuple[int, ...], gradients: bool, graphs: Sequence[ModePair]
) -> tuple[int, ...]:
    """Compare on small images if the model takes them; returns the size."""
    small = (shape[0], *(min(side, SMALL_SIDE) for side in shape[1:]))
    if small != shape and not is_adapted(pair) and all(each.report.any_size for each in graphs):
        leaves = _leaves(pair, name, small)
        if _takes(pair, leaves):
            compare(pair, leaves, gradients, graphs)
            return small
    leaves = _leaves(pair, name, shape)
    if pair.inputs.is_one_tensor and pair.report.any_size and _takes(pair, [leaves[0][:1]]):
        leaves = [leaves[0][:1]]  # one image is enough, except for a norm on a single pixel
    compare(pair, leaves, gradients, graphs)
    return shape


def _leaves(pair: ModePair, name: str, shape: tuple[int, ...]) -> list[Tensor]:
    args, kwargs = as_call(example(name, shape))
    return pair.inputs.flatten(pair.model, args, kwargs)


def _takes(pair: ModePair, leaves: Sequence[Tensor]) -> bool:
    """Whether the model itself takes a call of these tensors, and the same with images downsampled."""
    for given in (leaves, pair.inputs.map_images(leaves, pair.downsample)):
        args, kwargs = pair.inputs.call(given)
        if not _runs(pair.model, args, kwargs):
            return False
    return True


def _runs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        with torch.no_grad(), preserve_state(model):
            model(*args, **kwargs)
    except Exception:
        return False
    return True
