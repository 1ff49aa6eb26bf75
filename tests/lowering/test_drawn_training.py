"""Whole random CNNs, trained as a user trains them, by each front end: low, full and low steps beside an eager truth.

The truth is a copy of the model that ``oracle.EagerLowMode`` runs in low steps and that runs itself in full steps.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from oracle import EagerLowMode, buffers_restored
from spec_modules import build_cnn, draw_images
from specs import CNNSpec
from strategies import cnn_specs, low_mode_kwargs
from torch import Tensor, nn

from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, PassError, TraceError, build_pair

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("error::lowmode_fx.NoEffectWarning"),
    pytest.mark.filterwarnings("error::lowmode_fx.lowering.live.LiveLoweringWarning"),
]

FRONT_ENDS = ("live", "fx", "export", "auto")
#: torch.export can't capture a batch norm that averages over all batches: it reads their number from a tensor.
CUMULATIVE = {front_end: front_end != "export" for front_end in FRONT_ENDS}
STEPS = ("low", "full", "low")

#: Shrinking trains hundreds of networks: what fails is shown as it was drawn.
quick = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
thorough = settings(parent=quick, derandomize=False, max_examples=2000)


def loss_of(output: Tensor) -> Tensor:
    return (output * torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)).sum()


def train(model: nn.Module, forward: Any, low_step: Any = nullcontext) -> list[Tensor]:
    """The outputs of three steps by momentum SGD; ``forward`` takes a step's mode, ``low_step`` is around low ones."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    outputs = []
    for mode in STEPS:
        with low_step() if mode == "low" else nullcontext():
            optimizer.zero_grad()
            output = forward(mode)
            loss_of(output).backward()
            optimizer.step()
        outputs.append(output.detach())
    return outputs


def truth(model: nn.Module, images: dict[str, Tensor], kwargs: dict[str, Any]) -> list[Tensor]:
    """Trains ``model`` eagerly: what every front end must come to."""
    names = ("rounding", "gain", "pool_convs", "drop_maxpools")
    options = {name: kwargs[name] for name in names} | {"transform": kwargs["kernel_transform"]}

    def forward(mode: str) -> Tensor:
        if mode == "full":
            return model(images["full"])
        with EagerLowMode(kwargs["kernel_ratio"] or kwargs["ratio"], leaves=False, **options):
            return model(images["low"])

    # Backward reads what forward left in the buffers: they are put back once it has.
    return train(model, forward, partial(buffers_restored, model) if kwargs["batchnorm"] == "isolate" else nullcontext)


def check_front_end(spec: CNNSpec, kwargs: dict[str, Any], front_end: str, counts: Counter[str]) -> None:
    model = build_cnn(spec)
    original = deepcopy(model)
    images = {"full": draw_images(spec), "low": draw_images(spec, kwargs["ratio"])}
    try:
        pair = build_pair(model, images["full"], LowModeConfig(**kwargs), front_end=front_end)  # type: ignore[arg-type]
    except (PassError, TraceError) as error:  # by name alone: the model itself can always be lowered
        assert front_end in ("fx", "export"), error
        counts[f"{front_end}: refused"] += 1
        counts[str(error)[:160]] += 1
        return
    net = LowModeModel(pair, BernoulliSchedule(0.5), downsample_on="host", compile=False).train()
    found = train(model, lambda mode: net.run(mode, images[mode]))
    expected = truth(original, images, kwargs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for (name, value), other in zip(model.state_dict().items(), original.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-8, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")
    counts[f"{front_end}: right"] += 1


def check_drawn(front_end: str, how: settings) -> Counter[str]:
    """As many networks as the settings draw; how many of them were right, and how many refused."""
    counts: Counter[str] = Counter()

    @given(cnn_specs(transposed=True, cumulative=CUMULATIVE[front_end]), low_mode_kwargs())
    @how
    def check(spec: CNNSpec, kwargs: dict[str, Any]) -> None:
        check_front_end(spec, kwargs, front_end, counts)

    check()
    return counts


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_drawn_cnns_train_as_the_eager_low_mode(front_end: str) -> None:
    counts = check_drawn(front_end, quick)
    assert counts[f"{front_end}: right"] > counts[f"{front_end}: refused"], counts


@pytest.mark.slow
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_two_thousand_drawn_cnns_train_as_the_eager_low_mode(front_end: str) -> None:
    counts = check_drawn(front_end, thorough)
    print(dict(counts))
    assert counts[f"{front_end}: refused"] <= 0.05 * thorough.max_examples, counts
