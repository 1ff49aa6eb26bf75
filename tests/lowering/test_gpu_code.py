"""What is compiled for a GPU, as far as a machine without one can tell: inductor lowers it and generates kernels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._inductor.graph import GraphLowering

from bench.large_networks import conv_mixer
from bench.networks import small_resnet
from lowmode_fx import LowModeConfig, LowModeModel, Mode, PeriodicSchedule, build_pair
from lowmode_fx.lowering.downsampling import DOWNSAMPLING_METHODS, downsample
from passes.choices import NamedTransform

pytest.importorskip("triton", reason="inductor generates a GPU's kernels for triton, which is not installed")

from gpu_code import gpu_code

pytestmark = pytest.mark.usefixtures("one_thread")
RATIOS = (2, "4/3", "8/5", "8/7", (1, 2))
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
TRANSFORMS = get_args(NamedTransform)
#: One of each kind of formula; the others take much the same way.
QUICK = {("gaussian", "4/3", "channels_last"), ("bilinear", "4/3", "contiguous"), ("area", "4/3", "contiguous")}


@pytest.mark.parametrize(
    ("method", "ratio", "layout"),
    [
        pytest.param(*each, marks=[] if each in QUICK else pytest.mark.slow)
        for each in (
            (method, ratio, layout) for method in DOWNSAMPLING_METHODS for ratio in RATIOS for layout in LAYOUTS
        )
    ],
)
def test_downsampling(method: str, ratio: Any, layout: str) -> None:
    images = torch.randn(8, 3, 32, 32).to(memory_format=LAYOUTS[layout])

    def smaller(images: Tensor) -> Tensor:
        return 2 * downsample(images, ratio, method).bfloat16()

    with gpu_code() as gpu:
        result = torch.compile(smaller, backend=gpu, dynamic=False)(images)
    torch.testing.assert_close(result, smaller(images))
    (source,) = gpu.sources
    assert "@triton.jit" in source and "cpp_fused" not in source


def assert_low_steps_are_generated(model: nn.Module, config: LowModeConfig, layout: torch.memory_format) -> None:
    """Forward and backward of a training step."""
    model = model.to(memory_format=layout)
    images = torch.randn(4, 3, 32, 32).to(memory_format=layout)
    pair = build_pair(model, images[:2], config)
    with gpu_code() as gpu:
        net = LowModeModel(pair, PeriodicSchedule(2), compile_options={"backend": gpu}).train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(net.run(Mode.LOW, images), torch.tensor([0, 1, 2, 3]))
        loss.backward()
    assert len(gpu.sources) == 2
    assert all("@triton.jit" in source and "cpp_fused" not in source for source in gpu.sources)


@pytest.mark.slow
def test_low_steps_of_a_resnet() -> None:
    assert_low_steps_are_generated(
        small_resnet(width=8), LowModeConfig(ratio="4/3", kernel_ratio=2), torch.channels_last
    )


@pytest.mark.slow
def test_merged_kernels_are_generated_and_fewer() -> None:
    """Casts of weights and counters of norms are small kernels of their own, unless inductor merges them."""
    launches = []
    for merged in (False, True):
        with torch._inductor.config.patch(combo_kernels=merged, benchmark_combo_kernel=False):
            torch.manual_seed(0)
            pair = build_pair(small_resnet(width=8), torch.zeros(2, 3, 32, 32), LowModeConfig(kernel_ratio=1))
            with gpu_code() as gpu:
                net = LowModeModel(pair, PeriodicSchedule(2), compile_options={"backend": gpu}).train()
                with torch.autocast("cpu", torch.bfloat16):
                    net.run(Mode.LOW, torch.randn(4, 3, 32, 32)).sum().backward()
            launches.append(sum(source.split("def call")[-1].count(".run(") for source in gpu.sources))
    assert 0 < launches[1] < 0.8 * launches[0]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ratio", [2, "4/3", "8/5"])
def test_low_steps_of_a_resnet_at_other_ratios(ratio: Any, layout: str) -> None:
    assert_low_steps_are_generated(small_resnet(width=8), LowModeConfig(ratio=ratio), LAYOUTS[layout])


@pytest.mark.parametrize(
    "transform", [pytest.param(each, marks=[] if each == "bicubic" else pytest.mark.slow) for each in TRANSFORMS]
)
def test_low_steps_with_each_kernel_transform(transform: Any) -> None:
    config = LowModeConfig(pool_convs="large", kernel_transform=transform)
    assert_low_steps_are_generated(conv_mixer(13, width=8, depth=1), config, torch.contiguous_format)


@pytest.mark.parametrize("graph", ["forward", "backward"])
def test_what_can_not_be_generated_is_raised(graph: str) -> None:
    before = [(SimpleNamespace(value=""), None)] if graph == "backward" else []
    generated = mock.Mock(side_effect=[*before, ValueError("not comparable")])
    weight = torch.ones(4, requires_grad=True)
    with (
        pytest.raises(Exception, match="not comparable"),
        mock.patch.object(GraphLowering, "codegen", generated),
        gpu_code() as gpu,
    ):
        torch.compile(lambda x: x.sin() * weight, backend=gpu, dynamic=False)(torch.randn(4)).sum().backward()
