"""Networks with large kernels: at their real size, and at a size that two cores train on small images in minutes."""

from __future__ import annotations

from functools import partial

import timm
from timm.models.convmixer import ConvMixer
from timm.models.convnext import ConvNeXt
from timm.models.inception_next import MetaNeXt
from torch import nn

from bench.case import Case
from bench.rep_lk_net import rep_lk_net


def conv_mixer(kernel: int, classes: int = 10, width: int = 64, depth: int = 4) -> nn.Module:
    """timm's ConvMixer with patches of 2: maps of half the image's side all the way."""
    return ConvMixer(width, depth, kernel, 2, num_classes=classes)


def conv_next(classes: int = 10) -> nn.Module:
    """timm's ConvNeXt (7×7) on patches of 2; without layer scale, which 10,000 images would leave near 0."""
    return ConvNeXt(num_classes=classes, depths=(1, 1, 2, 1), dims=(32, 64, 96, 128), patch_size=2, ls_init_value=None)


def inception_next(classes: int = 10) -> nn.Module:
    """timm's InceptionNeXt: depthwise 3×3, 1×11 and 11×1 on parts of the channels."""
    return MetaNeXt(num_classes=classes, depths=(1, 1, 2, 1), dims=(32, 64, 96, 128), ls_init_value=1.0)


def efficient_net(classes: int = 10) -> nn.Module:
    """timm's EfficientNet-B0 (3×3 and 5×5) with a stem of stride 1, for small images."""
    return for_small_images(timm.create_model("efficientnet_b0", num_classes=classes))


def for_small_images(model: nn.Module) -> nn.Module:
    """An EfficientNet with a stem of stride 1."""
    stem = model.get_submodule("conv_stem")
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (1, 1)
    return model


#: For images of 32 pixels a side, or of 64 if maps are halved often.
SMALL: dict[str, Case] = {
    "convmixer-13": Case(partial(conv_mixer, 13), 32, 125),
    "convmixer-9": Case(partial(conv_mixer, 9), 32, 125),
    "convmixer-7": Case(partial(conv_mixer, 7), 32, 125),
    "convnext-small": Case(conv_next, 64, 125),
    "inceptionnext-small": Case(inception_next, 64, 125),
    "efficientnet-small": Case(efficient_net, 32, 125),
    "replknet-small": Case(
        partial(rep_lk_net, (16, 32, 64, 96), (1, 1, 2, 1), (31, 29, 27, 13), classes=10, stem_stride=2), 64, 50
    ),
}
#: At the papers' sizes, for a GPU; ConvNeXt and EfficientNet are among timm's in ``networks``.
LARGE: dict[str, Case] = {
    "convmixer_768_32": Case(partial(timm.create_model, "convmixer_768_32"), 224, 64),
    "inception_next_tiny": Case(partial(timm.create_model, "inception_next_tiny"), 224, 64),
    "replknet-31b": Case(rep_lk_net, 224, 64),
    "replknet-31b-cifar": Case(partial(rep_lk_net, classes=10, stem_stride=2), 64, 125),
}
