"""Do a report's figures agree with published ones, and with torch's own counter?

python -m bench.published_macs        # 25 networks, three minutes on one core
python -m bench.published_macs --small

Three counts of one forward of each network as it is trained: the headline of ``count_flops`` (convolutions, linear
layers and matrix products), the same with norms and the rest, and half the flops that torch's
``FlopCounterMode`` counts for the model itself. Compared with published figures: torchvision's
with its weights (``meta["_ops"]``, called GFLOPS and meant
as 10⁹ multiply-adds), timm in its table of results (``infer_gmacs``), and the networks' papers.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from bench.harness import RESULTS, header, load_rows, save
from lowmode_fx import LowModeConfig, build_pair, count_flops
from lowmode_fx.cli.models import create_model
from lowmode_fx.utils.tables import markdown_table

#: timm's table: github.com/huggingface/pytorch-image-models, commit aa4b585.
TIMM = "results/benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv"
TORCHVISION = "torchvision:"


@dataclass(frozen=True)
class Network:
    """A network at an image side, with the published figures in 10⁹ multiply-adds.

    ``timm``: from timm's table. ``paper``: from the paper that ``source`` names. ``note``: why a figure differs.
    """

    name: str
    side: int
    timm: float | None = None
    paper: float | None = None
    source: str = ""
    note: str = ""


NETWORKS = (
    Network("torchvision:alexnet", 224),
    Network("torchvision:vgg16", 224),
    Network("torchvision:squeezenet1_1", 224),
    Network("torchvision:resnet18", 224, paper=1.8, source="He et al. 2016, Table 1"),
    Network(
        "torchvision:resnet50", 224, paper=3.8, source="He et al. 2016, Table 1",
        note="the paper's strides stand in the 1×1 convolutions, torchvision's in the 3×3 ones",
    ),
    Network("torchvision:resnext50_32x4d", 224, paper=4.2, source="Xie et al. 2017, Table 1"),
    Network("torchvision:wide_resnet50_2", 224),
    Network("torchvision:densenet121", 224, timm=2.87),
    Network("torchvision:inception_v3", 299, note="trained with its auxiliary head, published without"),
    Network("torchvision:mobilenet_v2", 224, paper=0.300, source="Sandler et al. 2018, Table 4"),
    Network("torchvision:mobilenet_v3_large", 224, paper=0.219, source="Howard et al. 2019, Table 3"),
    Network("torchvision:shufflenet_v2_x1_0", 224, paper=0.146, source="Ma et al. 2018, Table 8"),
    Network("torchvision:mnasnet1_0", 224),
    Network("torchvision:efficientnet_b0", 224, timm=0.40, paper=0.39, source="Tan and Le 2019, Table 2"),
    Network("torchvision:regnet_y_3_2gf", 224, timm=3.20, paper=3.2, source="Radosavovic et al. 2020"),
    Network("torchvision:convnext_tiny", 224, timm=4.47, paper=4.5, source="Liu et al. 2022, Table 1"),
    Network("seresnet50", 224, timm=4.11),
    Network("res2net50_26w_4s", 224, timm=4.28),
    Network("hrnet_w18", 224, timm=4.32),
    Network("ghostnet_100", 224, timm=0.15, paper=0.141, source="Han et al. 2020"),
    Network(
        "mixnet_s", 224, timm=0.25, paper=0.256, source="Tan and Le 2019, MixConv",
        note="the paper's is unexplained",
    ),
    Network(
        "convmixer_768_32", 224, timm=19.55,
        note="timm's figure lacks the depthwise convolutions: fvcore by itself counts none with padding='same'",
    ),
    Network("inception_next_tiny", 224, timm=4.19, paper=4.2, source="Yu et al. 2024"),
    Network(
        "resnetv2_50x1_bit", 224, timm=4.23, note="timm's figure includes the standardisation of weights, once a step"
    ),
    Network(
        "dm_nfnet_f0", 256, timm=12.62, paper=12.38, source="Brock et al. 2021, Table 3",
        note="timm's figure includes the standardisation of weights, once a step",
    ),
)  # fmt: skip
SMALL = ("torchvision:squeezenet1_1", "torchvision:mobilenet_v2", "ghostnet_100")


def measure(network: Network) -> dict[str, Any]:
    """The counts of one network in multiply-adds; torchvision's own figure in 10⁹ of them."""
    model = create_model(network.name)
    example = torch.zeros(2, 3, network.side, network.side)
    # The low mode that is cheapest to build, since only full-mode is counted.
    report = count_flops(build_pair(model, example, LowModeConfig(kernel_ratio=1, adapt_head=True)))
    meta = create_model(network.name).to("meta").train()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        meta(example.to("meta"))
    return {
        "macs": report.full_macs,
        "total_macs": report.total_macs["full"],
        "weight_macs": report.weight_macs["full"],
        "flop_counter_macs": counter.get_total_flops() // 2 // len(example),
        "torchvision": torchvision_gmacs(network.name),
    }


def torchvision_gmacs(name: str) -> float | None:
    """torchvision's figure for the first weights of a network, in 10⁹; ``None`` for another package's network."""
    if not name.startswith(TORCHVISION):
        return None
    weights = next(iter(torchvision.models.get_model_weights(name.removeprefix(TORCHVISION))))
    return float(weights.meta["_ops"])


def table(rows: Mapping[str, Any]) -> str:
    """Markdown: one row per network, in 10⁹ multiply-adds per image."""
    head = ("network", "side", "report", "FlopCounterMode", "torchvision", "timm", "paper", "with norms and the rest")
    lines = []
    for network in (each for each in NETWORKS if each.name in rows):
        row = rows[network.name]
        counts = (f"{row['macs'] / 1e9:.3f}", f"{row['flop_counter_macs'] / 1e9:.3f}")
        published = (_given(row["torchvision"], 3), _given(network.timm, 2))
        paper = f"{network.paper:g} ({network.source})" if network.paper else ""
        total = f"{row['total_macs'] / 1e9:.3f}"
        lines.append((network.name, str(network.side), *counts, *published, paper, total, network.note))
    return markdown_table((*head, "why a figure differs"), lines)


def _given(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"


def page(rows: Mapping[str, Any]) -> str:
    """The table with its summary."""
    same = sum(row["macs"] == row["flop_counter_macs"] for row in rows.values())
    published = [row for row in rows.values() if row["torchvision"] is not None]
    near = sum(f"{row['macs'] / 1e9:.3f}" == f"{row['torchvision']:.3f}" for row in published)
    most = max(rows.values(), key=lambda row: row["total_macs"] / row["macs"])
    name = next(key for key, row in rows.items() if row is most)
    return (
        "# Figures as published\n\n"
        "10⁹ multiply-adds per image of one forward (flops are 2 × macs), by "
        "[`bench/published_macs.py`](../published_macs.py). *Report*: the headline of `lowmode-fx report`. "
        '*FlopCounterMode*: torch\'s, of the model itself, halved. *torchvision*: `weights.meta["_ops"]`. *timm*: '
        f"`infer_gmacs` of its `{TIMM}` (commit aa4b585).\n\n"
        f"{same} of {len(rows)} networks have exactly the macs that FlopCounterMode counts, {near} of "
        f"{len(published)} torchvision's figure to its last digit. Norms and the rest would add up to "
        f"{most['total_macs'] / most['macs'] - 1:.1%} ({name}). "
        "timm counts with fvcore in evaluation, norms included.\n\n"
        f"{table(rows)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"only {', '.join(SMALL)}")
    parser.add_argument("--resume", action="store_true", help="keep the rows in the result file")
    parser.add_argument("--out", type=Path, default=RESULTS / "published_macs.json")
    options = parser.parse_args()
    head, rows = header("published_macs"), load_rows(options.out, options.resume)
    for network in NETWORKS:
        if network.name in rows or (options.small and network.name not in SMALL):
            continue
        rows[network.name] = measure(network)
        save(options.out, head, rows)
    options.out.with_suffix(".md").write_text(page(rows))
    print(page(rows))


if __name__ == "__main__":
    main()
