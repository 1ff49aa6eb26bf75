"""Running statistics made anew from training batches at the end of a run ("Rethinking Batch in BatchNorm", §3)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lowmode_fx.tracing import train_mode


def recompute_statistics(model: nn.Module, images: Iterable[Tensor], batches: int) -> None:
    """The running statistics of every BatchNorm of ``model`` from ``batches`` batches ``(N, C, *S)``, at fixed weights.

    By ``fvcore.nn.precise_bn``. Values change in place; counters, modes and RNG are left as they were. Raises
    ``ValueError`` where fvcore is missing, or where a norm runs twice in a forward.
    """
    try:
        from fvcore.nn.precise_bn import update_bn_stats
    except ImportError as error:
        raise ValueError("precise_bn needs fvcore: pip install fvcore, or leave precise_bn at 0") from error
    places = [(module, name, value) for module in model.modules() for name, value in module._buffers.items()]
    kept = {id(value): value.clone() for _, _, value in places if value is not None}
    devices = list({value.device for _, _, value in places if value is not None and value.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), train_mode(model):
        try:
            update_bn_stats(model, images, batches)
        except AssertionError as error:
            raise ValueError(f"precise_bn can't serve this model: {error}; leave it at 0") from error
    with torch.no_grad():
        for module, name, buffer in places:
            new = module._buffers[name]
            if buffer is None or new is None:
                continue
            # fvcore puts new tensors in their places; compiled graphs hold on to the old ones.
            buffer.copy_(new if name in ("running_mean", "running_var") else kept[id(buffer)])
            module._buffers[name] = buffer
