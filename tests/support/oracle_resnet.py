"""ResNets in low-mode, written out by hand.

Nothing here imports the packages under test. ``test_oracle_resnet.py`` pins every helper to literal numbers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def low_resnet_forward(
    model: nn.Module,
    images: Tensor,
    *,
    pooled: Collection[str],
    drop_stem_maxpool: bool = False,
    isolate: bool = True,
) -> Tensor:
    """A torchvision or timm ResNet in low-mode, layer by layer, on the model's own parameters.

    ``images`` (N, 3, H, W) are downsampled already. ``pooled`` names the convs (``"layer1.0.conv2"``) whose kernels
    are pooled for r = 2: 3×3 → 1×1, and 7×7 → 3×3 for the stem.
    """
    names = {module: name for name, module in model.named_modules()}
    unknown = set(pooled) - set(names.values())
    assert not unknown, f"no such modules: {sorted(unknown)}"

    def conv(module: Any, x: Tensor) -> Tensor:
        if names[module] not in pooled:
            return F.conv2d(x, module.weight, module.bias, module.stride, module.padding)
        if module.kernel_size == (3, 3):
            assert module.padding == (1, 1)
            return F.conv2d(x, module.weight.mean((2, 3), keepdim=True), module.bias, module.stride, padding=0)
        assert module.kernel_size == (7, 7) and module.padding == (3, 3)
        spans = [slice(0, 3), slice(2, 5), slice(4, 7)]
        rows = [torch.stack([module.weight[:, :, row, column].mean((2, 3)) for column in spans], -1) for row in spans]
        return F.conv2d(x, torch.stack(rows, -2), module.bias, module.stride, padding=1)

    def norm(module: Any, x: Tensor) -> Tensor:
        if isolate:
            return F.batch_norm(x, None, None, module.weight, module.bias, training=True, eps=module.eps)
        module.num_batches_tracked += 1
        mean, variance = module.running_mean, module.running_var
        return F.batch_norm(x, mean, variance, module.weight, module.bias, True, module.momentum, module.eps)

    def block(module: Any, x: Tensor) -> Tensor:
        shortcut = x
        if module.downsample is not None:
            shortcut = norm(module.downsample[1], conv(module.downsample[0], x))
        x = F.relu(norm(module.bn1, conv(module.conv1, x)))
        x = norm(module.bn2, conv(module.conv2, x))
        if hasattr(module, "conv3"):
            x = norm(module.bn3, conv(module.conv3, F.relu(x)))
        return F.relu(x + shortcut)

    resnet: Any = model
    x = F.relu(norm(resnet.bn1, conv(resnet.conv1, images)))
    if not drop_stem_maxpool and not isinstance(resnet.maxpool, nn.Identity):
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        for member in layer:
            x = block(member, x)
    return F.linear(x.mean((2, 3)), resnet.fc.weight, resnet.fc.bias)


def resnet_block_convs(model: nn.Module) -> frozenset[str]:
    """The names of the 3×3 convs in the residual blocks: what the paper pools."""
    return frozenset(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and name.startswith("layer")
    )
