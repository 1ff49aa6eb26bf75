"""``TrainSettings``: all that decides how a run trains, and the learning rate as a pure function of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from lowmode_fx.train import rates
from lowmode_fx.train.recipe import read_recipe
from lowmode_fx.utils.validation import (
    as_choice,
    as_count,
    as_flag,
    as_number,
    as_seed,
    as_sequence,
    check_names,
    wrong_type,
)
from passes.errors import OptionError
from passes.spelling import setting

if TYPE_CHECKING:  # settings are read and refused without waiting for torch
    import torch

#: More are a slip of the keyboard: each has a place in a schedule.
MOST_EPOCHS = 100_000
#: The largest rate, decay or weight: more is no float32.
MOST_NUMBER = 1e30
#: Where networks can train; whether it is there, torch knows.
_DEVICE = r"auto|cpu|(cuda|mps|xpu)(:\d{1,3})?"
_NO_DEVICE = ("is not there", "give auto, cpu or a GPU that torch sees")
LrSchedule = Literal["milestones", "cosine", "onecycle", "step", "exponential", "linear", "plateau"]
LrOver = Literal["steps", "macs"]
Autocast = Literal["none", "bf16", "fp16"]
DataOn = Literal["auto", "device", "host"]
CRITERIA = ("cross_entropy", "bce")
#: Settings that say where and how fast, or what comes after the last step: a resumed run may change them.
CHANGEABLE_ON_RESUME = frozenset(
    {
        "device",
        "compile",
        "channels_last",
        "cudnn_benchmark",
        "fsdp",
        "workers",
        "data_on",
        "eval_batch_size",
        "precise_bn",
    }
)
#: Settings that older checkpoints don't know: left out of what is compared where they are as they were then.
_ADDED_LATER = (
    "criterion",
    "class_weights",
    "optimizer",
    "ema",
    "decay_epochs",
    "patience_epochs",
    "augment",
    "lr_over",
    "clip_grad_norm",
)


@dataclass(frozen=True)
class TrainSettings:
    """How a run trains.

    Args:
        epochs: Number of epochs.
        batch_size: Images per step, over all ranks.
        lr: Peak learning rate.
        momentum: Momentum of SGD.
        weight_decay: Weight decay.
        nesterov: Whether SGD uses Nesterov's momentum.
        lr_schedule: How the learning rate falls (``train/scheduler.py``).
        lr_over: What ``"cosine"`` and ``"onecycle"`` fall over: the run's steps, or its multiply-adds, of which low
            steps have few (``cost_progress``).
        milestones: Epochs, counted from 0, at whose start the rate is multiplied by ``lr_gamma``.
        lr_gamma: Factor on the rate at each fall.
        warmup_epochs: Epochs in which the rate rises linearly.
        label_smoothing: Label smoothing, in [0, 1).
        criterion: ``"cross_entropy"``, ``"bce"`` or ``package.module:callable``.
        class_weights: Weight of each class in the loss, or ``"balanced"``.
        precise_bn: Number of training batches from which the running statistics are computed again at the end; with 0
            they stay as they are. By default 100 after a run whose low steps left them alone and whose last full steps
            are too few to settle them, and else 0.
        autocast: Dtype of autocast.
        seed: Seed of weights, order, crops and modes.
        device: ``auto``, ``cpu``, or a GPU such as ``cuda:1``.
        compile: Whether each mode is compiled.
        workers: Number of processes that decode images.
        data_on: Where the images are held; the batches are the same.
        eval_batch_size: Images per batch of the validation.
        optimizer: ``sgd``, or a name of timm's.
        ema: Decay of an average of the weights, which is then the model that is validated; 0 for none.
        decay_epochs: Epochs in which the rate of ``"step"`` and ``"exponential"`` falls by ``lr_gamma`` once; 0 is a
            third of the run.
        patience_epochs: Epochs without a better accuracy after which ``"plateau"`` lowers the rate.
        augment: Augmentation of training images (``train/recipe.py``).
        clip_grad_norm: Largest total norm of a step's gradients, as in ``torch.nn.utils.clip_grad_norm_``; ``None``
            leaves them as they are.
        channels_last: Whether weights and images lie in ``torch.channels_last``: the same results up to rounding, in
            less time on most devices.
        cudnn_benchmark: Whether cuDNN tries its algorithms at each new shape and keeps the fastest, on CUDA during the
            run. It may choose others when the run resumes, so that bits may differ.

    Raises:
        ValueError: A value is out of range.
        TypeError: A value has the wrong type.
    """

    epochs: int = 30
    batch_size: int = 125
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    lr_schedule: LrSchedule = "milestones"
    lr_over: LrOver = "steps"
    milestones: tuple[int, ...] = ()
    lr_gamma: float = 0.1
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    criterion: str = "cross_entropy"
    class_weights: Literal["balanced"] | tuple[float, ...] = ()
    precise_bn: int | None = None
    autocast: Autocast = "none"
    seed: int = 0
    device: str = "auto"
    compile: bool = True
    fsdp: bool = False
    workers: int = 2
    data_on: DataOn = "auto"
    eval_batch_size: int = 500
    optimizer: str = "sgd"
    ema: float = 0.0
    decay_epochs: int = 0
    patience_epochs: int = 10
    augment: str = "auto"
    clip_grad_norm: float | None = None
    channels_last: bool = False
    cudnn_benchmark: bool = False

    def __post_init__(self) -> None:
        self._set("epochs", as_count("epochs", self.epochs, 1, MOST_EPOCHS))
        for name in ("batch_size", "eval_batch_size"):
            self._set(name, as_count(name, getattr(self, name), 1))
        if not re.fullmatch(_DEVICE, self.device):
            raise OptionError("device", self.device, *_NO_DEVICE)
        for name in ("warmup_epochs", "workers", "decay_epochs", "patience_epochs"):
            self._set(name, as_count(name, getattr(self, name)))
        if self.precise_bn is not None:
            self._set("precise_bn", as_count("precise_bn", self.precise_bn))
        self._set("seed", as_seed(self.seed))
        self._set("lr", as_number("lr", self.lr, above=0, most=MOST_NUMBER))
        self._set("lr_gamma", as_number("lr_gamma", self.lr_gamma, above=0, most=1))
        self._set("weight_decay", as_number("weight_decay", self.weight_decay, least=0, most=MOST_NUMBER))
        self._set("momentum", as_number("momentum", self.momentum, least=0, below=1))
        self._set("label_smoothing", as_number("label_smoothing", self.label_smoothing, least=0, below=1))
        if self.class_weights != "balanced":
            weights = as_sequence("class_weights", self.class_weights, "'balanced', or a number for each class")
            named = [
                as_number(f"class_weights[{place}]", weight, least=0, most=MOST_NUMBER)
                for place, weight in enumerate(weights)
            ]
            self._set("class_weights", tuple(named))
        if self.clip_grad_norm is not None:
            self._set("clip_grad_norm", as_number("clip_grad_norm", self.clip_grad_norm, above=0, most=MOST_NUMBER))
        self._set("ema", as_number("ema", self.ema, least=0, below=1))
        for name in ("ema", "precise_bn"):
            if self.fsdp and getattr(self, name):
                problem = f"needs whole weights on each rank, and {setting('fsdp', True)} shards them"
                raise OptionError(name, getattr(self, name), problem, "leave out one of the two")
        if self.nesterov and self.optimizer != "sgd":
            raise OptionError("nesterov", True, "is of SGD alone", f"leave it out, or {setting('optimizer', 'sgd')}")
        for name in ("nesterov", "compile", "fsdp", "channels_last", "cudnn_benchmark"):
            as_flag(name, getattr(self, name))
        as_choice("lr_schedule", self.lr_schedule, get_args(LrSchedule))
        as_choice("lr_over", self.lr_over, get_args(LrOver))
        if self.lr_over == "macs" and self.lr_schedule not in ("cosine", "onecycle"):
            problem = f"needs a rate over the whole run, and {setting('lr_schedule', self.lr_schedule)} has none"
            raise OptionError("lr_over", self.lr_over, problem, f"give {setting('lr_schedule', 'cosine')}, or onecycle")
        as_choice("autocast", self.autocast, get_args(Autocast))
        as_choice("data_on", self.data_on, get_args(DataOn))
        check_criterion(self.criterion)
        if read_recipe(self.augment).mixes and self.criterion == "bce" and self.label_smoothing:
            problem = f"has no meaning for mixed labels in {setting('criterion', 'bce')}"
            raise OptionError("label_smoothing", self.label_smoothing, problem, "leave it out")
        given = as_sequence("milestones", self.milestones, "epochs, such as (80, 120)")
        milestones = tuple(as_count(f"milestones[{place}]", epoch, 1) for place, epoch in enumerate(given))
        if list(milestones) != sorted(set(milestones)):
            raise OptionError("milestones", milestones, "is not in rising order", "give each epoch once, rising")
        self._set("milestones", milestones)
        if self.nesterov and not self.momentum:
            raise OptionError(
                "nesterov", True, f"needs a momentum, and {setting('momentum', 0)}", "give one such as 0.9"
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def paper(cls, **changes: Any) -> TrainSettings:
        """§4 of the paper: 200 epochs of 125 images, rate 0.1 → 0.01 (epoch 80) → 0.001 (epoch 120), momentum 0.9.

        The paper doesn't give the weight decay; 5e-4 is the custom for ResNets on CIFAR-10.
        """
        return cls(**{"epochs": 200, "batch_size": 125, "lr": 0.1, "milestones": (80, 120), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        weights = self.class_weights
        plain = weights if isinstance(weights, str) else list(weights)
        return {**asdict(self), "milestones": list(self.milestones), "class_weights": plain}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSettings:
        """The inverse of ``to_dict``. Raises ``ValueError`` for a name that is no setting."""
        check_names("TrainSettings", values, [field.name for field in fields(cls)])
        return cls(**values)

    def trajectory(self) -> dict[str, Any]:
        """What a run and its continuation must share. More epochs are allowed where no rate depends on their number."""
        later = {name for name in _ADDED_LATER if getattr(self, name) == DEFAULTS[name]}
        dropped = CHANGEABLE_ON_RESUME | later | ({"epochs"} if self.lr_schedule == "milestones" else set())
        return {name: value for name, value in self.to_dict().items() if name not in dropped}

    @property
    def falls_every(self) -> int:
        """Epochs in which the rates of ``"step"`` and ``"exponential"`` fall to ``lr_gamma`` of themselves."""
        return self.decay_epochs or max(1, round(self.epochs / 3))

    @property
    def rate_falls(self) -> tuple[int, ...]:
        """The epochs that begin with another rate than the one before, where the rate falls in steps known ahead."""
        if self.lr_schedule == "step":
            return tuple(range(self.falls_every, self.epochs, self.falls_every))
        return self.milestones if self.lr_schedule == "milestones" else ()

    def learning_rate(self, epoch: int, share: float = 0.0, passed: float | None = None) -> float:
        """The rate in ``epoch``, of which ``share`` in [0, 1) has passed, of the schedules that are known ahead.

        ``passed``: the share of the whole run that has passed; by default that of its steps.
        """
        passed = (epoch + share) / self.epochs if passed is None else passed
        if self.lr_schedule == "cosine":
            rate = rates.cosine(self.lr, passed)
        elif self.lr_schedule == "onecycle":
            rate = rates.onecycle(self.lr, passed)
        else:
            rate = rates.falling(self.lr, self.lr_gamma, self.rate_falls, epoch)
        return rates.warmed_up(rate, self.warmup_epochs, epoch + share)

    def torch_device(self) -> torch.device:
        """The device; ``auto`` is torch's first GPU, or else the CPU. Raises ``ValueError`` if it isn't there."""
        import torch

        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise OptionError("device", self.device, *_NO_DEVICE) from error
        return device

    def autocast_dtype(self) -> torch.dtype | None:
        import torch

        return {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.autocast]


def check_criterion(name: str) -> None:
    """Raises ``OptionError`` for a loss that is none of the named ones and no ``package.module:callable``."""
    if not isinstance(name, str):
        raise wrong_type("criterion", name, "the name of a loss")
    if ":" not in name:
        as_choice("criterion", name, CRITERIA, "package.module:callable")


DEFAULTS = {field.name: field.default for field in fields(TrainSettings)}
