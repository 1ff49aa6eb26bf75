"""`TrainSettings`: all that decides how a run trains, and the learning rate as a pure function of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch

LR_SCHEDULES = ("milestones", "cosine", "onecycle")
AUTOCASTS = ("none", "bf16", "fp16")
#: Settings that say where and how fast, or what comes after the last step: a resumed run may change them.
PLACE_ONLY = frozenset({"device", "compile", "workers", "eval_batch_size", "precise_bn"})
ONECYCLE_RISE, ONECYCLE_START, ONECYCLE_END = 0.3, 1 / 25, 1e-4  # shares of the run, and of the peak rate


@dataclass(frozen=True)
class TrainSettings:
    """SGD settings. At the start of each epoch in `milestones` (counted from 0) the rate is multiplied by `lr_gamma`.

    `precise_bn`: at the end of the run, running statistics are made anew from so many training batches (0: they stay).

    Raises `ValueError` (a value out of range) or `TypeError` (a value of another kind), naming what is allowed.
    """

    epochs: int = 30
    batch_size: int = 125
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    lr_schedule: Literal["milestones", "cosine", "onecycle"] = "milestones"
    milestones: tuple[int, ...] = ()
    lr_gamma: float = 0.1
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    precise_bn: int = 0
    autocast: Literal["none", "bf16", "fp16"] = "none"
    seed: int = 0
    device: str = "auto"
    compile: bool = True
    workers: int = 2
    eval_batch_size: int = 500

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for name in ("epochs", "batch_size", "eval_batch_size"):
            self._demand_int(name, 1)
        for name in ("warmup_epochs", "seed", "workers", "precise_bn"):
            self._demand_int(name, 0)
        self._demand_number("lr", self.lr, lambda v: v > 0, "a number above 0")
        self._demand_number("lr_gamma", self.lr_gamma, lambda v: 0 < v <= 1, "a number above 0, at most 1")
        self._demand_number("weight_decay", self.weight_decay, lambda v: v >= 0, "a number of at least 0")
        self._demand_number("momentum", self.momentum, lambda v: 0 <= v < 1, "a number of at least 0, below 1")
        self._demand_number("label_smoothing", self.label_smoothing, lambda v: 0 <= v < 1, "at least 0, below 1")
        self._demand_one_of("lr_schedule", LR_SCHEDULES)
        self._demand_one_of("autocast", AUTOCASTS)
        if any(isinstance(m, bool) or not isinstance(m, int) or m < 1 for m in self.milestones):
            raise ValueError(f"milestones {self.milestones} are not allowed; give epoch numbers of at least 1")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones {self.milestones} are not in rising order; give each epoch once, rising")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum, which is 0; give a momentum such as 0.9")

    @classmethod
    def paper(cls, **changes: Any) -> TrainSettings:
        """§4 of the paper: 200 epochs of 125 images, rate 0.1 → 0.01 (epoch 80) → 0.001 (epoch 120), momentum 0.9.

        The paper doesn't give the weight decay; 5e-4 is the custom for ResNets on CIFAR-10.
        """
        return cls(**{"epochs": 200, "batch_size": 125, "lr": 0.1, "milestones": (80, 120), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "milestones": list(self.milestones)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSettings:
        """The inverse of `to_dict`. Raises `ValueError` for a name that is no setting."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown training setting {unknown[0]!r}; allowed are {', '.join(sorted(known))}")
        return cls(**values)

    def trajectory(self) -> dict[str, Any]:
        """What a run and its continuation must share. More epochs are allowed where no rate depends on their number."""
        dropped = PLACE_ONLY | ({"epochs"} if self.lr_schedule == "milestones" else set())
        return {name: value for name, value in self.to_dict().items() if name not in dropped}

    def learning_rate(self, epoch: int, share: float = 0.0) -> float:
        """The rate in epoch `epoch`, of which `share` in [0, 1) has passed."""
        passed = (epoch + share) / self.epochs
        if self.lr_schedule == "milestones":
            rate = self.lr * self.lr_gamma ** sum(epoch >= milestone for milestone in self.milestones)
        elif self.lr_schedule == "cosine":
            rate = self.lr * (1 + math.cos(math.pi * passed)) / 2
        elif passed < ONECYCLE_RISE:
            rate = self.lr * _cosine(ONECYCLE_START, 1, passed / ONECYCLE_RISE)
        else:
            rate = self.lr * _cosine(1, ONECYCLE_END, (passed - ONECYCLE_RISE) / (1 - ONECYCLE_RISE))
        if epoch + share < self.warmup_epochs:
            # Never 0: the first step of a warm-up moves the weights too.
            rate *= max((epoch + share) / self.warmup_epochs, 1 / (100 * self.warmup_epochs))
        return rate

    def torch_device(self) -> torch.device:
        """The device, `auto` being the first GPU that torch sees, or the CPU. Raises `ValueError` if it isn't there."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ValueError(f"device {self.device!r} isn't there; give auto, cpu or a GPU that torch sees") from error
        return device

    def autocast_dtype(self) -> torch.dtype | None:
        return {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.autocast]

    def _demand_int(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} {value!r} is no integer; give one of at least {least}")
        if value < least:
            raise ValueError(f"{name} {value} is not allowed; give an integer of at least {least}")

    def _demand_number(self, name: str, value: Any, allowed: Callable[[float], bool], text: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} {value!r} is no number; give {text}")
        if not (math.isfinite(value) and allowed(value)):
            raise ValueError(f"{name} {value} is not allowed; give {text}")

    def _demand_one_of(self, name: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name} {getattr(self, name)!r} is not allowed; give one of {', '.join(allowed)}")


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
