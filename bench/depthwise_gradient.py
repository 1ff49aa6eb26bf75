"""The gradient of depthwise kernels: torch's kernel against one product of matrices, which pooled low steps use.

python -m bench.depthwise_gradient    # half a minute on a CPU; with a GPU, there

Layers of networks of ``large_kernels.py``: pooled and kept, as low steps have them, and full, which in training always
take torch's kernel, as the model does. Both ways are timed in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.harness import RESULTS, header, paired_ratio, paired_times, save, summary
from lowmode_fx.utils.tables import markdown_table
from passes.depthwise_gradient import convolve, kernel_gradient

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Layer(NamedTuple):
    """Square depthwise kernels of ``kernel`` taps a side on ``images`` maps of ``side`` pixels a side."""

    network: str
    mode: str
    images: int
    channels: int
    side: int
    kernel: int


LAYERS = (
    Layer("convmixer-13", "full", 125, 64, 16, 13),
    Layer("convmixer-13", "kept 4", 125, 64, 8, 13),
    Layer("convmixer-13", "pooled", 125, 64, 8, 7),
    Layer("convmixer-13", "pooled 8/3", 125, 64, 6, 5),
    Layer("convmixer-9", "full", 125, 64, 16, 9),
    Layer("convmixer-9", "pooled", 125, 64, 8, 5),
    *(Layer("replknet-small", "full", 50, *layer) for layer in ((16, 32, 31), (32, 16, 29), (64, 8, 27))),
    *(Layer("replknet-small", "pooled", 50, *layer) for layer in ((16, 16, 15), (32, 8, 15), (64, 4, 13))),
)


class ProductGradients(TorchFunctionMode):
    """Inside, all depthwise convolutions have the gradients that those of low steps have: a control for full steps."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return convolve(func, args, kwargs) if func is F.conv2d else func(*args, **kwargs)


def ways(layer: Layer, dtype: torch.dtype, device: torch.device) -> dict[str, partial[Tensor]]:
    """Both ways to the gradient of one layer in ``channels_last``."""
    shape = (layer.images, layer.channels, layer.side, layer.side)
    maps, grad = (
        torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last) for _ in range(2)
    )
    weight = torch.randn(layer.channels, 1, layer.kernel, layer.kernel, device=device, dtype=dtype)
    one, around = (1, 1), (layer.kernel // 2,) * 2
    return {
        "torch": partial(_by_torch, grad, maps, weight, around),
        "product": partial(kernel_gradient, maps, grad, (layer.kernel,) * 2, one, around, one),
    }


def _by_torch(grad: Tensor, maps: Tensor, weight: Tensor, around: tuple[int, int]) -> Tensor:
    _, found, _ = torch.ops.aten.convolution_backward(
        grad, maps, weight, None, (1, 1), around, (1, 1), False, (0, 0), len(weight), [False, True, False]
    )
    assert isinstance(found, Tensor)
    return found


def measure(layers: Iterable[Layer], rounds: int, device: torch.device) -> dict[str, Any]:
    """Rows by layer and dtype: milliseconds of both ways, and how many times the product is faster."""
    rows: dict[str, Any] = {}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for layer in layers:
        for name, dtype in DTYPES.items():
            times = paired_times(ways(layer, dtype, device), device, rounds, clock=clock)
            in_ms = {way: summary([1000 * each for each in values]) for way, values in times.items()}
            faster = paired_ratio(times["torch"], times["product"])
            rows[" / ".join((*map(str, layer), name))] = {**layer._asdict(), "dtype": name, **in_ms, "faster": faster}
    return rows


def table(rows: Mapping[str, Any]) -> str:
    """Markdown: a line for each layer."""
    by_layer: dict[tuple[str, str, str], list[str]] = {}
    for row in rows.values():
        name = f"{row['kernel']}×{row['kernel']} on {row['side']}×{row['side']}"
        values = by_layer.setdefault((row["network"], row["mode"], name), [])
        values += [f"{row['torch']['median']:.2f}", f"{row['product']['median']:.2f}", f"{row['faster']['median']:.1f}"]
    heads = ("torch, ms", "product, ms", "times faster")
    titles = ["network", "mode", "layer", *(f"{name}: {head}" for name in DTYPES for head in heads)]
    return markdown_table(titles, [[*names, *values] for names, values in by_layer.items()], left=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="two rounds of two layers")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / f"depthwise_gradient_{device.type}.json")
    options = parser.parse_args()
    if device.type == "cpu":
        torch.set_num_threads(1)
    layers, rounds = (LAYERS[2:4], 2) if options.small else (LAYERS, options.rounds)
    rows = measure(layers, rounds, device)
    save(options.out, header("depthwise_gradient", rounds=rounds), rows)
    print(table(rows))


if __name__ == "__main__":
    main()
