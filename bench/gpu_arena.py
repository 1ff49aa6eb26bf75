"""One network, one optimizer and one captured step, which all arms of the GPU training use in turn."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cifar_archives import SIDE, Split
from bench.gpu_studies import Study
from bench.harness import paired_steps
from bench.planned_modes import PlannedModes
from bench.step_functions import capture_all, captured, uncompiled
from bench.timed_graphs import TimedGraphs
from bench.training_step import training_step
from lowmode_fx import Augmentation, DeviceLoader, LowModeModel, Mode, TrainStep, build_ladder
from lowmode_fx.counting.step import count_forward_macs
from lowmode_fx.utils.devices import synchronize

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


class Arena:
    """The network is compiled and captured once, for all modes; a run only sets weights, momentum and buffers in place.

    ``graphs``: replaces CUDA graphs in tests.
    """

    def __init__(self, study: Study, device: torch.device, graphs: Any = None) -> None:
        self.study, self.device, self.batch = study, device, study.batch
        self.model = study.network(device)
        example = torch.zeros(2, 3, SIDE, SIDE, device=device).to(memory_format=study.memory_format)
        self.schedule = PlannedModes()
        ladder = build_ladder(self.model, example, study.configs)
        self.net = LowModeModel(
            ladder,
            self.schedule,
            low_weight=study.low_weight,
            batch_multiplier=study.multipliers,
            compile=study.compile,
        )
        self.net.train()
        self.optimizer = study.optimizer(self.model.parameters())
        self.autocast = torch.bfloat16 if device.type == "cuda" else None
        if graphs is None and device.type == "cuda":
            graphs = TimedGraphs(device)
        self.graphs = graphs
        self.step = TrainStep(
            self.net,
            F.cross_entropy,
            self.optimizer,
            autocast=self.autocast,
            clip_grad_norm=study.clip,
            graphs=graphs,
        )
        largest = max(self.size(mode) for mode in study.modes)
        self._images = torch.randn(largest, 3, SIDE, SIDE, device=device).to(memory_format=study.memory_format)
        self._labels = torch.randint(0, 10, (largest,), device=device)

    def size(self, mode: str) -> int:
        """Images of a step in ``mode``."""
        return self.net.batch_size_in(Mode(mode), self.batch)

    def _made_up(self, mode: str) -> tuple[Tensor, Tensor]:
        size = self.size(mode)
        return self._images[:size], self._labels[:size]

    def whole(self, mode: str) -> None:
        """One captured step on random images."""
        self.schedule.chosen = Mode(mode)
        self.step(*self._made_up(mode))

    def looped(self, mode: str) -> None:
        """The same step in a loop, launched kernel by kernel, as peers run theirs."""
        forward = partial(self.net.run, Mode(mode))
        training_step(forward, partial(self._made_up, mode), self.optimizer, self.autocast, self.study.clip)

    def costs(self, rounds: int | None = None) -> dict[str, dict[str, float]]:
        """Median seconds of a step in each mode, captured and in a loop; the weights do not change."""
        self._set_rate(0.0)
        kinds = {"whole step": self.whole, "loop": self.looped}
        capture_all(self.step, [partial(self.whole, mode) for mode in self.study.modes])
        functions = {(kind, mode): partial(step, mode) for kind, step in kinds.items() for mode in self.study.modes}
        times = paired_steps(functions, self.device, rounds or self.study.rounds, warmup=1)
        return {kind: {mode: statistics.median(times[kind, mode]) for mode in self.study.modes} for kind in kinds}

    def told(self) -> dict[str, Any]:
        """Whether steps are compiled (and in which modes they are not) and captured, in words."""
        found = uncompiled(self.net)
        return {"compiled": not found, "uncompiled modes": found, **captured(self.step)}

    @cached_property
    def macs(self) -> dict[str, float]:
        """Multiply-adds of an image in each mode, divided by full-mode's."""
        full, *low = count_forward_macs(self.net.ladder)
        return {str(Mode.FULL): 1.0, **{str(mode): n / full for mode, n in zip(self.net.modes, low, strict=False)}}

    def train(self, modes: Sequence[str], train: Split, seed: int, over_macs: bool = False) -> dict[str, Any]:
        """Run from new weights, one step for each of ``modes``. The seconds are the whole loop's, loading included.

        ``over_macs``: the learning rate follows multiply-adds instead of images.
        """
        self._reset(seed)
        self.schedule.follow(modes)
        sizes = [self.size(mode) for mode in modes]
        work = [size * (self.macs[mode] if over_macs else 1.0) for size, mode in zip(sizes, modes, strict=True)]
        done, every = 0.0, math.fsum(work)
        loader = self.loader(train, seed)
        launched = getattr(self.graphs, "launches", 0)
        synchronize(self.device)
        began, place, epoch, loss = time.perf_counter(), 0, 0, torch.zeros(())
        while place < len(modes):
            loader.set_epoch(epoch)
            self.net.set_epoch(epoch)
            for images, labels in loader:
                if place == len(modes):
                    break
                self._set_rate(rate(done / every, self.study.peak_rate))
                done += work[place]
                loss = self.step(images.contiguous(memory_format=self.study.memory_format), labels)
                place += 1
            epoch += 1
        synchronize(self.device)
        seconds = time.perf_counter() - began
        self.schedule.follow(())
        replays = getattr(self.graphs, "launches", 0) - launched
        found = {"seconds": seconds, "steps": place, "images": sum(sizes), "last loss": float(loss)}
        return found | {"replays": replays}

    def loader(self, train: Split, seed: int) -> DeviceLoader:
        """Random crops and flips of images that lie on the device."""
        return augmented(train, self.batch, seed, self.net if self.net.batches_grow else None)

    def loading_seconds(self, train: Split) -> float:
        """Seconds of loading one epoch's batches, without training."""
        synchronize(self.device)
        began = time.perf_counter()
        for images, _ in self.loader(train, 0):
            images.contiguous(memory_format=self.study.memory_format)
        synchronize(self.device)
        return time.perf_counter() - began

    def accuracy(self, test: Split) -> float:
        """Test accuracy of the model in eval mode, in %."""
        self.net.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        enabled = self.autocast is not None
        with torch.no_grad(), torch.autocast(self.device.type, self.autocast, enabled=enabled):
            for images, labels in DeviceLoader(*test, 2000, mean=MEAN, std=STD):
                outputs: Tensor = self.net(images.contiguous(memory_format=self.study.memory_format))
                right += (outputs.argmax(1) == labels).sum()
        self.net.train()
        return 100 * int(right) / len(test.labels)

    def _set_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def _reset(self, seed: int) -> None:
        """Reset weights, buffers and the optimizer in place, where captured steps read them."""
        state: Mapping[str, Tensor] = self.study.network(self.device, seed).state_dict()
        self.model.load_state_dict(state)
        for values in self.optimizer.state.values():
            for value in values.values():
                if isinstance(value, Tensor):
                    value.zero_()
        self.net.load_schedule_state({"step": 0, "epoch": 0})
        torch.manual_seed(seed)


def augmented(train: Split, batch: int, seed: int, net: LowModeModel | None = None) -> DeviceLoader:
    """Random crops and flips of images that lie on the device; ``net``: whose batches grow."""
    changes = Augmentation(shift=4, flip=True)
    return DeviceLoader(
        *train, batch, shuffle=True, drop_last=True, mean=MEAN, std=STD, augmentation=changes, seed=seed, net=net
    )


def rate(progress: float, peak: float) -> float:
    """A linear warm-up over a tenth of the run, then a cosine to zero."""
    warm = (progress + 1e-3) / 0.1
    return peak * min(warm, 0.5 * (1 + math.cos(math.pi * max(0.0, progress - 0.1) / 0.9)))
