"""How close is a resized kernel's map to the full kernel's map, downsampled? Per layer, and by gradients.

python -m bench.kernel_scores --small --data folder:PATH      # two CPU cores: ConvMixers, untrained and after 64 steps
python -m bench.kernel_scores --data folder:PATH              # every network with large kernels, after 1,000 steps

Each large convolution runs on its full-mode input, downsampled, with its kernel resized by a transform; the result is
compared with its full-mode output, downsampled. Means over layers: ``error``, the norm of the difference divided by
that of the map, without each channel's mean; ``unlike``, 1 − correlation, which a norm after the convolution does not
change; ``gain``, the norm of the map divided by that of the expected one. ``agreement``: the cosine of
the gradients of low-mode and full-mode on one batch, over all parameters.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.harness import RESULTS, header, load_rows, save
from bench.large_kernels import LARGE_STUDIES, SMALL_STUDIES, Study, adam, device, load, network, step
from lowmode_fx import LowModeConfig, ModePair, build_pair, downsample, gradient_agreement
from lowmode_fx.train.batches import train_batches
from lowmode_fx.utils.allocator import keep_freed_memory
from lowmode_fx.utils.tables import markdown_table
from passes.calls import ConvCall
from passes.match import conv_sites
from passes.pooled_calls import pooled_conv, run_pooled

COLUMNS = ("error", "unlike", "gain", "agreement")


def configs() -> dict[str, LowModeConfig]:
    """The transforms by their names in tables; those that cover K keep more taps if K' would be at most ⌈K/r⌉."""
    found = {"kept": LowModeConfig(kernel_ratio=1)}
    for transform in ("avg", "adaptive", "center", "bicubic", "linear", "pi_resize"):
        for rounding in ("ceil", "cover"):
            name = transform if rounding == "ceil" else f"{transform}, cover"
            found[name] = LowModeConfig(kernel_transform=transform, rounding=rounding, pool_convs="large")
    for gain in ("sum", "norm"):
        found[f"avg, {gain}"] = LowModeConfig(gain=gain, pool_convs="large")
        found[f"bicubic, {gain}"] = LowModeConfig(gain=gain, kernel_transform="bicubic", pool_convs="large")
    return found


def maps_of(model: nn.Module, images: Tensor, names: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Input and output of each convolution, by its path."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: found.__setitem__(name, (inputs[0], output))
        )
        for name in names
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return found


def layer_scores(pair: ModePair, maps: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """The means over the layers whose kernels the pair pools."""
    pooled = {change.site for change in pair.report.pooled}
    rows = []
    for site in conv_sites(pair.full):
        if site.name in pooled:
            inputs, output = maps[site.name]
            module = pair.model.get_submodule(site.name)
            assert isinstance(module, nn.modules.conv._ConvNd)
            with torch.no_grad():
                call: ConvCall[Any] = site
                found = run_pooled(
                    pooled_conv(call, pair.config.pooling_rule), downsample(inputs, 2), module.weight, module.bias
                )
            rows.append(compare(found, downsample(output, 2)))
    return {name: statistics.fmean(values) for name, values in zip(COLUMNS, zip(*rows, strict=True), strict=False)}


def compare(found: Tensor, wanted: Tensor) -> tuple[float, float, float]:
    """``error``, ``unlike`` and ``gain`` of maps (N, C, H, W)."""
    found, wanted = (each - each.mean((0, 2, 3), keepdim=True) for each in (found, wanted))
    ours, theirs = (each.square().sum((0, 2, 3)) for each in (found, wanted))
    correlation = (found * wanted).sum((0, 2, 3)) / (ours * theirs).sqrt()
    error = ((found - wanted).square().sum() / theirs.sum()).sqrt()
    return float(error), float(1 - correlation.nanmean()), float((ours.sum() / theirs.sum()).sqrt())


def score(study: Study, data: str, steps: int) -> dict[str, dict[str, float]]:
    """Measure every transform on the network after ``steps`` full steps."""
    splits, model = load(study, data), network(study, 0).train()
    optimizer = adam(study, model)
    batches = (
        batch
        for epoch in range(10**6)
        for batch in train_batches(splits, batch_size=125, seed=0, epoch=epoch, device=device())
    )
    for number in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = study.lr * min(1.0, (number + 1) / (0.2 * steps))
        images, labels = next(batches)
        step(model, images.contiguous(memory_format=torch.channels_last), labels, model, optimizer)
    images, labels = next(batches)
    images = images.contiguous(memory_format=torch.channels_last)
    found: dict[str, dict[str, float]] = {}
    maps: dict[str, tuple[Tensor, Tensor]] = {}
    for name, config in configs().items():
        pair = build_pair(model, images[:2], config)
        maps = maps or maps_of(model, images, [site.name for site in conv_sites(pair.full)])
        scores = layer_scores(pair, maps) if config.pools_kernels else {}
        agreement = gradient_agreement(pair, [(images, labels)], F.cross_entropy).cosine
        found[name] = {**scores, "agreement": agreement}
    return found


def table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown, the smallest ``unlike`` first."""
    order = sorted(scores, key=lambda name: scores[name].get("unlike", -1.0))
    cells = [[name, *(f"{scores[name][c]:.3f}" if c in scores[name] else "" for c in COLUMNS)] for name in order]
    return markdown_table(("transform", *COLUMNS), cells)


#: The transforms of the documentation's table, as options of ``LowModeConfig``, and their rows.
_SHOWN = {
    '`"pi_resize"`': "pi_resize",
    '`"linear"`': "linear",
    '`"bicubic"`, `gain="sum"`': "bicubic, sum",
    '`"bicubic"`': "bicubic",
    '`"avg"`, `gain="sum"`': "avg, sum",
    '`"avg"`': "avg",
    '`"adaptive"`': "adaptive",
    '`"center"`': "center",
    "kernels kept": "kept",
}


def short_table(rows: Mapping[str, Any], network: str, steps: int) -> str:
    """Markdown: error and agreement of the transforms, untrained and after training steps."""
    scores = [rows[f"{network}, after {count} steps"] for count in (0, steps)]
    columns = [(name, row) for name in ("error", "agreement") for row in scores]
    cells = [
        [told, *(f"{row[key][c]:.2f}" if c in row[key] else "" for c, row in columns)] for told, key in _SHOWN.items()
    ]
    after = f"after {steps} steps"
    return markdown_table(("transform", "error", after, "agreement", after), cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder:PATH or cifar10:PATH")
    parser.add_argument("--small", action="store_true", help="4,000 images, for two CPU cores")
    parser.add_argument("--networks", nargs="*", help="run only these studies")
    parser.add_argument("--steps", type=int, nargs="*", help="0 64 in the small form, else 0 1000")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--resume", action="store_true", help="keep the rows in the result file")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    path = options.out or RESULTS / f"kernel_scores_{'cuda' if torch.cuda.is_available() else 'cpu'}.json"
    head, rows = header("kernel_scores", small=options.small), load_rows(path, options.resume)
    for study in SMALL_STUDIES if options.small else LARGE_STUDIES:
        if options.networks and study.network not in options.networks:
            continue
        for steps in options.steps or ((0, 64) if options.small else (0, 1000)):
            key = f"{study.network}, after {steps} steps"
            if key not in rows:
                rows[key] = score(study, options.data, steps)
                save(path, head, rows)
            print(f"### {key}\n\n{table(rows[key])}", flush=True)
    text = "\n\n".join(f"### {key}\n\n{table(scores)}" for key, scores in rows.items())
    path.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    main()
