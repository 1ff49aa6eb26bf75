"""The ablation's studies: networks on parts of a data set, and the recipe that all arms share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from bench.networks import larger_maps, narrow_efficient_net, resnet, small_resnet
from lowmode_fx.train import DataSplits, TrainSettings, load_data
from lowmode_fx.train.batches import EpochBatches
from lowmode_fx.train.images import MemoryImages
from lowmode_fx.train.settings import Autocast, LrOver

BATCH = 125
SIDE = 32
CIFAR = "CIFAR-10"
#: Peak learning rate of the first studies; the keys of others say theirs.
LR = 0.1
NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "resnet8": lambda: small_resnet(blocks=1, kernel=3),
    "resnet8-5x5": lambda: small_resnet(blocks=1, kernel=5),
    "efficientnet": narrow_efficient_net,
    "efficientnet-4x4": larger_maps,
    "resnet18": lambda: resnet(18, "cifar", 10),
}


@dataclass(frozen=True)
class Study:
    """One network on one part of a data set.

    ``epochs``: length of the full-mode run that arms are compared with. ``variations``: whether to add arms that vary
    the norms and the weights of low steps. ``tuner``: of how many modes, full-mode included, the tuner plans arms of
    its own.
    """

    network: str
    epochs: int
    images: int
    curve_images: int
    lr: float
    last_stage: str
    variations: bool = True
    data_set: str = CIFAR
    tuner: tuple[int, ...] = (2, 3)
    autocast: Autocast = "bf16"

    @property
    def key(self) -> str:
        """What rows of the study begin with."""
        data_set = "" if self.data_set == CIFAR else f" on {self.data_set}"
        rate = "" if self.lr == LR else f", rate {self.lr:g}"
        return f"{self.network}{data_set}{rate}"


SMALL = (
    Study("resnet8", 16, 12_000, 2_000, LR, "5"),
    Study("resnet8-5x5", 12, 8_000, 2_000, LR, "5", variations=False),
    Study("resnet8", 12, 12_000, 2_000, LR, "5", variations=False, data_set="Fashion-MNIST", tuner=()),
    # Depthwise convolutions take twice as long in bf16 on a CPU.
    Study("efficientnet", 12, 8_000, 2_000, LR, "blocks.6", variations=False, tuner=(), autocast="none"),
    Study("efficientnet-4x4", 12, 8_000, 2_000, LR, "blocks.6", variations=False, tuner=(), autocast="none"),
    # The best rates of full-mode, and of ladders.
    Study("resnet8", 16, 12_000, 2_000, 0.2, "5", variations=False, tuner=()),
    Study("resnet8", 16, 12_000, 2_000, 0.4, "5", variations=False, tuner=(4,)),
    Study("resnet8-5x5", 12, 8_000, 2_000, 0.2, "5", variations=False, tuner=()),
    Study("resnet8-5x5", 12, 8_000, 2_000, 0.4, "5", variations=False, tuner=(4,)),
    Study("resnet8", 12, 12_000, 2_000, 0.4, "5", variations=False, data_set="Fashion-MNIST", tuner=()),
)
LARGE = (Study("resnet18", 30, 50_000, 10_000, LR, "layer4"),)


def chosen(studies: Sequence[Study], data_set: str, names: Sequence[str] | None) -> list[Study]:
    """The studies of a data set that are named by their key or network; by default all at the first studies' rate."""
    of_set = [study for study in studies if study.data_set == data_set]
    if not names:
        return [study for study in of_set if study.lr == LR]
    return [study for study in of_set if study.key in names or (study.network in names and study.lr == LR)]


@cache
def load(study: Study, data: str) -> tuple[DataSplits, DataSplits]:
    """The training subset with a part of the test set for the curves, and with all of the test set."""
    whole = load_data(data, None if study.data_set == CIFAR else SIDE)
    assert isinstance(whole.train, MemoryImages) and isinstance(whole.val, MemoryImages)
    chosen = torch.randperm(len(whole.train), generator=torch.Generator().manual_seed(0))[: study.images]
    shown = torch.randperm(len(whole.val), generator=torch.Generator().manual_seed(0))[: study.curve_images]
    final = replace(whole, train=MemoryImages(whole.train.images[chosen], whole.train.labels[chosen]))
    return replace(final, val=MemoryImages(whole.val.images[shown], whole.val.labels[shown])), final


def settings(study: Study, epochs: int, seed: int, lr_over: LrOver = "steps") -> TrainSettings:
    """The recipe, which is the same for all arms but for what the learning rate falls over."""
    return TrainSettings(
        epochs=epochs,
        batch_size=BATCH,
        lr=study.lr,
        lr_schedule="cosine",
        lr_over=lr_over,
        warmup_epochs=1,
        nesterov=True,
        autocast=study.autocast,
        seed=seed,
        compile=torch.cuda.is_available(),
    )


def network(study: Study, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return NETWORKS[study.network]().to(device).to(memory_format=torch.channels_last)


def loader(splits: DataSplits) -> EpochBatches:
    return EpochBatches(splits, BATCH, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
