"""Real models: the full graph is the model bit for bit, and low-mode fits it (invariants 1 to 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from oracle import RecordConvShapes
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lowmode_fx import LowModeConfig, build_pair

SIDE = 64


def from_torchvision(name: str, **arguments: Any) -> nn.Module:
    return torchvision.models.get_model(name, weights=None, num_classes=10, **arguments)


def vgg(name: str) -> nn.Module:
    """With a small classifier: the two layers of 4096 are most of its memory, and nothing of interest here."""
    model: Any = from_torchvision(name)
    model.classifier = nn.Sequential(nn.Linear(512 * 49, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10))
    return model


def from_timm(name: str, **arguments: Any) -> nn.Module:
    return timm.create_model(name, num_classes=10, **arguments)


#: name → (how to make it, number of pooled convolutions)
ZOO: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "torchvision resnet18": (lambda: from_torchvision("resnet18"), 16),
    "torchvision resnet34": (lambda: from_torchvision("resnet34"), 32),
    "torchvision resnet50": (lambda: from_torchvision("resnet50"), 16),
    "torchvision vgg11": (lambda: vgg("vgg11"), 7),
    "torchvision vgg11_bn": (lambda: vgg("vgg11_bn"), 7),
    "torchvision densenet121": (lambda: from_torchvision("densenet121"), 58),
    "torchvision mobilenet_v2": (lambda: from_torchvision("mobilenet_v2"), 0),
    "torchvision mobilenet_v3_small": (lambda: from_torchvision("mobilenet_v3_small"), 8),
    "torchvision efficientnet_b0": (lambda: from_torchvision("efficientnet_b0"), 9),
    "torchvision googlenet": (lambda: from_torchvision("googlenet", init_weights=False), 19),
    "torchvision squeezenet1_1": (lambda: from_torchvision("squeezenet1_1"), 8),
    "torchvision shufflenet_v2_x0_5": (lambda: from_torchvision("shufflenet_v2_x0_5"), 0),
    "timm resnet18": (lambda: from_timm("resnet18"), 16),
    "timm resnet26d": (lambda: from_timm("resnet26d"), 10),
    "timm regnety_002": (lambda: from_timm("regnety_002"), 13),
    "timm efficientnet_b0": (lambda: from_timm("efficientnet_b0"), 9),
    "timm tf_efficientnet_b0": (lambda: from_timm("tf_efficientnet_b0"), 9),
    "timm convnext_atto": (lambda: from_timm("convnext_atto"), 12),
    "timm mobilenetv3_small_050": (lambda: from_timm("mobilenetv3_small_050"), 8),
    "timm densenet121": (lambda: from_timm("densenet121"), 58),
    "timm resnetv2_50": (lambda: from_timm("resnetv2_50"), 16),
}
#: Depthwise 3×3 convs and pointwise ones alone behind the stem: by default nothing is pooled.
UNPOOLED = ("torchvision mobilenet_v2", "torchvision shufflenet_v2_x0_5")
#: The same blocks as another model here, over again.
SLOW = ("torchvision resnet34", "torchvision vgg11_bn", "timm densenet121")

pytestmark = pytest.mark.usefixtures("one_thread")


def tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def step(module: nn.Module, images: Tensor) -> tuple[list[Tensor], dict[str, Tensor | None], dict[str, Tensor]]:
    """Outputs, gradients and buffers of one training step, with the buffers put back afterwards."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.zero_grad()
    torch.manual_seed(1)
    outputs = tensors(module(images))
    sum((output * torch.linspace(-1, 2, output.numel()).view_as(output)).sum() for output in outputs).backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    after = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for name, buffer in module.named_buffers():
        buffer.copy_(before[name])
    return [output.detach() for output in outputs], gradients, after


@pytest.mark.filterwarnings("ignore::lowmode_fx.NoEffectWarning")
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in ZOO])
def test_a_model_of_the_zoo(name: str) -> None:
    make, pooled_convs = ZOO[name]
    torch.manual_seed(0)
    model, images = make(), torch.randn(2, 3, SIDE, SIDE)
    low_images = torch.randn(2, 3, SIDE // 2, SIDE // 2)
    pair = build_pair(model, images, LowModeConfig())
    assert pair.report.front_end == "fx"
    assert len(pair.report.pooled) == pooled_convs

    # 1: the full graph is the model, to the bit.
    outputs, gradients, buffers = step(model, images)
    full_outputs, full_gradients, full_buffers = step(pair.full, images)
    assert len(outputs) == len(full_outputs) > 0
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(full_outputs, outputs, strict=True))
    for parameter, gradient in gradients.items():
        found = full_gradients[parameter]
        assert (gradient is None) == (found is None), parameter
        assert gradient is None or torch.equal(found, gradient), parameter  # type: ignore[arg-type]
    assert all(torch.equal(full_buffers[buffer], value) for buffer, value in buffers.items())

    # 2: one set of parameters, under the model's names.
    for graph_module in (pair.full, pair.low):
        found_tensors = dict(graph_module.named_parameters()) | dict(graph_module.named_buffers())
        expected_tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        assert found_tensors.keys() == expected_tensors.keys()
        assert all(found_tensors[key] is tensor for key, tensor in expected_tensors.items())

    # 3: on the same small images, every convolution gives the size that the model's own gives.
    with RecordConvShapes() as expected_shapes, torch.no_grad():
        model(low_images)
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    with RecordConvShapes() as shapes, torch.no_grad():
        pair.low(low_images)
    assert shapes.shapes == expected_shapes.shapes

    # 4 and 5: what gets a gradient in full-mode gets a finite one in low-mode, and no running statistic moves.
    low_outputs, low_gradients, low_buffers = step(pair.low, low_images)
    assert [output.shape for output in low_outputs] == [output.shape for output in outputs]
    assert all(output.isfinite().all() for output in low_outputs)
    for parameter, gradient in gradients.items():
        low_gradient = low_gradients[parameter]
        assert (low_gradient is None) == (gradient is None), parameter
        assert low_gradient is None or low_gradient.isfinite().all(), parameter
    assert all(torch.equal(value, before[key]) for key, value in low_buffers.items())
    assert (pooled_convs == 0) == (name in UNPOOLED)
