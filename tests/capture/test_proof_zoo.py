"""No false alarm: graphs of networks that people train hold."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from lowmode_fx.capture.capture import capture
from lowmode_fx.capture.proof import prove

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = ("timm resnet18", "timm mobilenetv3_small_050", "timm convnext_atto", "timm ghostnet_100")
QUICK_OF_TORCHVISION = ("torchvision googlenet", "torchvision shufflenet_v2_x0_5")
OF_TORCHVISION = [
    "alexnet",
    "densenet121",
    "efficientnet_b0",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet50",
    "squeezenet1_1",
    "vgg11",
]
OF_TIMM = [
    "convmixer_768_32",
    "convnext_tiny",
    "convnextv2_atto",
    "cspresnet50",
    "darknet53",
    "densenet121",
    "dla34",
    "edgenext_xx_small",
    "efficientnet_b0",
    "efficientnetv2_rw_t",
    "efficientvit_b0",
    "fastvit_t8",
    "focalnet_tiny_srf",
    "gcresnext26ts",
    "gernet_s",
    "hardcorenas_a",
    "hgnetv2_b0",
    "hrnet_w18_small",
    "inception_next_atto",
    "inception_v3",
    "lambda_resnet26t",
    "lcnet_050",
    "mixnet_s",
    "mobileone_s0",
    "mobilevit_xxs",
    "nfnet_l0",
    "poolformer_s12",
    "rdnet_tiny",
    "regnety_008",
    "repvgg_a0",
    "res2net50_14w_8s",
    "resnest14d",
    "resnet50",
    "resnet50_gn",
    "resnetv2_50",
    "rexnet_100",
    "selecsls42",
    "skresnet18",
    "starnet_s1",
    "tf_efficientnet_b0",
    "tinynet_e",
    "tresnet_m",
    "vgg16_bn",
    "vovnet39a",
    "xception41",
]
SLOW = [f"torchvision {name}" for name in OF_TORCHVISION] + [f"timm {name}" for name in OF_TIMM]


def make(name: str) -> nn.Module:
    library, name = name.split()
    if library == "timm":
        return timm.create_model(name, num_classes=10)
    options: dict[str, Any] = {"init_weights": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, weights=None, num_classes=10, **options)


@pytest.mark.parametrize(
    "name", [*QUICK, *QUICK_OF_TORCHVISION, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_a_network_of_the_zoo_holds_at_two_sizes(name: str) -> None:
    model, images = make(name), torch.zeros(2, 3, 96, 96)
    captured = capture(model, images, "fx")
    proof = prove(model, captured.graph_module, (images,), at=[((torch.zeros(2, 3, 64, 64),), {})])
    assert proof.holds, proof.difference


@pytest.mark.parametrize("name", ["timm resnet18", pytest.param("timm efficientnet_b0", marks=pytest.mark.slow)])
def test_exported_graphs_hold(name: str) -> None:
    model, images = make(name), torch.zeros(2, 3, 64, 64)
    captured = capture(model, images, "export")
    proof = prove(model, captured.graph_module, (images,))
    assert proof.holds, proof.difference
