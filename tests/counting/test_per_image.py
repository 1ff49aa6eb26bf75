"""Work that is repeated for every image counts per image, wherever a model keeps its batch axis.

The oracle needs no graph: a model's eager multiply-adds are an affine function of the batch, whose slope is the cost of
an image and whose constant is the work on weights.
"""

from __future__ import annotations

import copy

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lowmode_fx import LowModeConfig, build_pair, count_flops, count_step_flops
from lowmode_fx.counting.handles import HANDLES
from lowmode_fx.counting.operators import BESIDE_OPS
from lowmode_fx.counting.step import _forward_macs_on_fakes, count_forward_macs

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE, WIDTH, QUERIES = 16, 8, 5


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.Conv2d(4, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))


class Detector(nn.Module):
    """Learned queries ``[Q, N, C]`` and a map ``[H·W, N, C]``, as in DETR; a table of classes is projected once."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.queries, self.classes = nn.Embedding(QUERIES, WIDTH), nn.Parameter(torch.zeros(3, WIDTH))
        self.transformer = nn.Transformer(WIDTH, 2, 1, 2, 12, dropout=0.0, batch_first=False)
        self.project = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.backbone(x).flatten(2).permute(2, 0, 1)
        queries = self.queries.weight.unsqueeze(1).repeat(1, len(x), 1)
        return self.transformer(memory, queries) @ self.project(self.classes).T


class Attended(nn.Module):
    """Queries that attend to themselves before they see an image, batch in place 1."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.query = Backbone(), nn.Parameter(torch.zeros(QUERIES, 1, WIDTH))
        self.own = nn.MultiheadAttention(WIDTH, 2, batch_first=False)
        self.cross = nn.MultiheadAttention(WIDTH, 2, batch_first=False)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.backbone(x).flatten(2).permute(2, 0, 1)
        queries = self.query.expand(-1, x.shape[0], -1)
        queries = queries + self.own(queries, queries, queries)[0]
        return self.cross(queries, memory, memory)[0]


class BatchThird(nn.Module):
    """Maps as ``[H, W, N, C]``, with a table of positions that is repeated along axis 2 and projected there."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.mix = Backbone(), nn.Linear(2 * WIDTH, WIDTH)
        self.positions, self.project = nn.Parameter(torch.zeros(2, 2, 1, WIDTH)), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        maps = nn.functional.adaptive_avg_pool2d(self.backbone(x), 2).permute(2, 3, 0, 1)
        places = self.project(self.positions.repeat(1, 1, maps.size(2), 1))
        return self.mix(torch.cat((maps, places), -1))


class HeadsInBatch(nn.Module):
    """Queries of every image and head in one axis of N·heads."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.query, self.project = Backbone(), nn.Parameter(torch.zeros(1, 7, 6)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.project(self.query.repeat(x.shape[0] * 2, 1, 1))
        return queries.view(x.shape[0], 2, 7, 4) @ self.backbone(x).view(x.shape[0], 2, 4, -1)


class OneByOne(nn.Module):
    """A loop over the images, in which the same token is projected again for each."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.token, self.project = Backbone(), nn.Parameter(torch.zeros(3, 6)), nn.Linear(6, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.backbone(x).mean((2, 3))
        return torch.stack([self.project(self.token) @ each for each in maps])


class TwoOfWeights(nn.Module):
    """A tensor with an axis as long as the batch that has nothing to do with it: two tables, for a batch of two."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.table, self.project = Backbone(), nn.Parameter(torch.zeros(7, 6)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x) * self.project(self.table.expand(2, 7, 6)).mean()


MODELS = (Detector, Attended, BatchThird, HeadsInBatch, OneByOne, TwoOfWeights)


def eager_macs(model: nn.Module, images: int) -> int:
    """Products of the model's own forward, operator by operator as ``count_flops`` counts them."""
    analysis = FlopCountAnalysis(model.train(), torch.zeros(images, 3, SIDE, SIDE))
    for name, handle in HANDLES.items():
        analysis.set_op_handle(name, handle)
    analysis.unsupported_ops_warnings(False).tracer_warnings("none")
    return round(sum(count for name, count in analysis.by_operator().items() if name not in BESIDE_OPS))


def torch_macs(model: nn.Module, images: int) -> int:
    """What torch counts on meta tensors; it knows no attention kernel of the CPU."""
    counter = FlopCounterMode(display=False)
    with counter:
        copy.deepcopy(model).to("meta").train()(torch.zeros(images, 3, SIDE, SIDE, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("front_end", ["live", "auto"])
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_macs_per_image_and_per_step_are_those_of_the_model(kind: type[nn.Module], front_end: str) -> None:
    """``auto`` takes ``export`` for models that read ``len(x)``, and ``fx`` for the others."""
    model = kind()
    one, three = eager_macs(model, 1), eager_macs(model, 3)
    per_image = (three - one) // 2
    by_torch = (torch_macs(model, 3) - torch_macs(model, 1)) // 2
    for images in (1, 2, 3) if front_end == "live" else (2,):
        pair = build_pair(model, torch.zeros(images, 3, SIDE, SIDE), LowModeConfig(), front_end=front_end)
        report = count_flops(pair)
        products = sum(row.full_macs for row in report.weights if row.kind == "product")
        assert (report.full_macs, products) == (per_image, one - per_image)
        assert count_forward_macs(pair)[0] == by_torch


def test_a_training_step_of_queries_grows_with_the_batch() -> None:
    """Of twice the images twice the flops, the table of classes aside: 3·8·8 macs forward, and twice that backward."""
    pair = build_pair(Detector(), torch.zeros(2, 3, SIDE, SIDE), LowModeConfig(), front_end="live")
    once = 2 * 3 * (3 * WIDTH * WIDTH)
    for four, eight in zip(count_step_flops(pair, batch_size=4), count_step_flops(pair, batch_size=8), strict=True):
        assert eight - once == 2 * (four - once)


def test_a_model_that_takes_one_batch_size_is_judged_by_its_numbers() -> None:
    class Fixed(Detector):
        def forward(self, x: Tensor) -> Tensor:
            assert len(x) == 3, "three images a batch"
            return super().forward(x)

    report = count_flops(build_pair(Fixed(), torch.zeros(3, 3, SIDE, SIDE), LowModeConfig(), front_end="live"))
    model = Detector()
    assert report.full_macs == (eager_macs(model, 3) - eager_macs(model, 1)) // 2


@pytest.mark.parametrize("kind", [Detector, Attended, BatchThird], ids=lambda kind: kind.__name__)
def test_fake_tensors_count_as_meta_tensors_do(kind: type[nn.Module]) -> None:
    """Where a forward can't run on meta tensors: attention of the CPU is counted too."""
    pair = build_pair(kind(), torch.zeros(2, 3, SIDE, SIDE), LowModeConfig(), front_end="live")
    assert _forward_macs_on_fakes(pair) == count_forward_macs(pair)
