"""Is a habit's net the model in full steps, and the truth in low ones? ``right``, ``refused`` or ``wrong``."""

from __future__ import annotations

import contextlib
import copy
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, PeriodicSchedule, build_pair, downsample
from semantics.habit import Habit, generators_at
from semantics.loop import Step, evaluate, optimizer_of, steps_differ, train
from semantics.state import attributes, buffers, difference, everything, holds_generator, holds_graph
from semantics.truth import RATIO, LowTruth

FULL_STEPS, LOW_STEPS, COMPILED_STEPS = 3, 2, 10
#: Compilations of one code object, in the compiled check; as many steps lie far beyond them.
RECOMPILE_LIMIT = 3


@dataclass(frozen=True)
class Verdict:
    """What a check found, and in one line why."""

    word: Literal["right", "refused", "wrong"]
    why: str = ""


#: How graphs are refused that a front end gives which was asked for by name.
_OF_A_GRAPH = re.compile(r"the (fx|export) graph of \w+ (does not train|is for)|can't be traced on ")


class Wrong(Exception):
    """The product did something else than the habit asks for."""


class Refused(Exception):
    """The product said no, in one line that names the cause."""


#: (model, habit, schedule, options of the net) → net
Product = Callable[[nn.Module, Habit, Any, dict[str, Any]], Any]


def product(
    model: nn.Module, habit: Habit, schedule: Any, options: dict[str, Any], front_end: str = "auto"
) -> LowModeModel:
    """The net that a user makes of a habit's model."""
    config = LowModeConfig(ratio=RATIO, **habit.config)
    given = (habit.example or habit.given)(0)
    alone = len(given.args) == 1 and isinstance(given.args[0], Tensor)
    example = dict(given.kwargs) or (given.args[0] if alone else given.args)
    images = given.images if len(given.images) > 1 else None
    pair = build_pair(model, example, config, front_end=front_end, images=images, submodule=habit.submodule)
    return LowModeModel(pair, schedule, **options)


def full(habit: Habit, make_net: Product = product) -> Verdict:
    """Three full steps and an evaluation beside the plain model, bit for bit; the build changes nothing."""

    def check() -> None:
        model, plain = habit.make(), habit.make()
        net = _built(habit, model, make_net, BernoulliSchedule(p=0.0), {"compile": False})
        ours = _net_steps(habit, model, net, FULL_STEPS)
        right = _right_steps(habit, plain, FULL_STEPS, lambda step: False)
        for step, pair in enumerate(zip(ours, right, strict=True)):
            _same(steps_differ(*pair), f"full step {step}")
        _same_evaluation(habit, model, net, plain, 0.0)

    return _verdict(check)


def low(habit: Habit, make_net: Product = product) -> Verdict:
    """Two low steps beside the truth, no trace of them but the parameters', and an evaluation as the plain model's."""

    def check() -> None:
        model, plain = habit.make(), habit.make()
        net = _built(habit, model, make_net, BernoulliSchedule(p=1.0), {"compile": False})
        ours = _net_steps(habit, model, net, LOW_STEPS, traceless=lambda step: True)
        right = _right_steps(habit, plain, LOW_STEPS, lambda step: True)
        for step, pair in enumerate(zip(ours, right, strict=True)):
            _same(steps_differ(*pair, habit.tolerance, without=("attributes",)), f"low step {step}")
        _same_evaluation(habit, model, net, plain, habit.tolerance)

    return _verdict(check, habit.dtype)


def compiled(habit: Habit, make_net: Product = product) -> Verdict:
    """Full and low steps in turns, compiled, past the recompile limit, beside the plain model and the truth."""

    def is_low(step: int) -> bool:
        return step % 2 == 1

    def check() -> None:
        model, plain = habit.make(), habit.make()
        options = {"compile": True, "compile_options": {"backend": habit.backend}}
        net = _built(habit, model, make_net, PeriodicSchedule(2), options)
        with torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT):
            ours = _net_steps(habit, model, net, COMPILED_STEPS, traceless=is_low)
        right = _right_steps(habit, plain, COMPILED_STEPS, is_low)
        for step, pair in enumerate(zip(ours, right, strict=True)):
            without = ("attributes",) if is_low(step) else ()
            _same(steps_differ(*pair, habit.tolerance, without), f"step {step}, compiled")
        _same_evaluation(habit, model, net, plain, habit.tolerance)

    torch._dynamo.reset()
    return _verdict(check, habit.dtype)


CHECKS: dict[str, Callable[..., Verdict]] = {"full": full, "low": low, "compiled": compiled}


def _verdict(check: Callable[[], None], dtype: torch.dtype = torch.float32) -> Verdict:
    with generators_at(7), default_dtype(dtype), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check()
        except Wrong as wrong:
            return Verdict("wrong", str(wrong))
        except Refused as refused:
            return Verdict("refused", str(refused))
    return Verdict("right")


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _judged(habit: Habit, at: str, error: Exception) -> Exception:
    said = f"{type(error).__name__}: {error}"
    line = " ".join(said.split())[:300]
    if not isinstance(error, ValueError | TypeError):
        return Wrong(f"{at}: {line}")
    if isinstance(error, ValueError) and _OF_A_GRAPH.search(str(error)) and "\n" not in str(error):
        return Refused(f"{at}: {line}")  # a front end that was named, whose graph is not the model
    if habit.cause is None:
        return Wrong(f"{at}, refused where that is no answer: {line}")
    named = re.search(habit.cause, str(error)) and "\n" not in str(error)
    return Refused(f"{at}: {line}") if named else Wrong(f"{at}, refused without a word of the cause: {line}")


def _built(habit: Habit, model: nn.Module, make_net: Product, schedule: Any, options: dict[str, Any]) -> Any:
    before = everything(model)
    refusal = None
    try:
        net = make_net(model, habit, schedule, options)
    except Exception as error:
        refusal = _judged(habit, "the build", error)
    _same(difference(everything(model), before), "the build has changed the model")
    if refusal is not None:
        raise refusal
    return net


class _Watched:
    """The net as a loop calls it, which sees that its low steps leave buffers and attributes as they were.

    A tensor of the step's own graph (an auxiliary loss, a feature to distil) is an output by another door: it may stay.
    A generator of the model's own moves on, as the world's do.
    """

    def __init__(self, net: Any, model: nn.Module, traceless: bool) -> None:
        self.net, self.model, self.traceless = net, model, traceless

    def __getattr__(self, name: str) -> Any:
        return getattr(self.net, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.traceless and self.model.training):
            return self.net(*args, **kwargs)
        before = buffers(self.model) | attributes(self.model)
        outputs = self.net(*args, **kwargs)
        after = buffers(self.model) | attributes(self.model)
        stays = {name for name, value in after.items() if holds_graph(value) or holds_generator(value)}
        kept, was = ({name: value for name, value in each.items() if name not in stays} for each in (after, before))
        _same(difference(kept, was), "a low step has left")
        return outputs


def _net_steps(
    habit: Habit,
    model: nn.Module,
    net: Any,
    count: int,
    traceless: Callable[[int], bool] = lambda step: False,
) -> list[Step]:
    optimizer = optimizer_of(model)
    net.attach(optimizer)
    subject = _installed(habit, model, net)
    found = []
    with generators_at(3):
        for step in range(count):
            try:
                found.append(train(habit, model, _Watched(subject, model, traceless(step)), step, optimizer, net))
            except Wrong:
                raise
            except Exception as error:
                raise _judged(habit, f"step {step}", error) from error
    return found


def _installed(habit: Habit, model: nn.Module, net: Any) -> Any:
    """What the loop calls: the net, or a second parent, in which the net is where the part was that it stands for."""
    if habit.submodule is None:
        return net
    parent = copy.copy(model)
    parent._modules = {**model._modules, habit.submodule: net}
    return parent


def _right_steps(habit: Habit, model: nn.Module, count: int, is_low: Callable[[int], bool]) -> list[Step]:
    optimizer = optimizer_of(model)
    restore = bool(habit.config.get("restore_output"))
    truth = LowTruth(model, lambda images: downsample(images, RATIO), habit.given(0).images, restore)
    with generators_at(3):
        subjects = (truth if is_low(step) else model for step in range(count))
        found = [train(habit, model, subject, step, optimizer, model) for step, subject in enumerate(subjects)]
    assert all(step.loss.values.isfinite() for step in found), f"{habit} does not train"
    return found


def _same(found: str | None, at: str) -> None:
    if found is not None:
        raise Wrong(f"{at}: {found}")


def _same_evaluation(habit: Habit, model: nn.Module, net: Any, plain: nn.Module, tolerance: float) -> None:
    ours, right = evaluate(habit, _installed(habit, model, net)), evaluate(habit, plain)
    _same(difference(ours, right, tolerance, "outputs"), "in eval mode afterwards")
