"""Modes that the compiler fails in run uncompiled: those alone, told once, and never tried again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiler_backends import RecordingBackend
from functorch.compile import make_boxed_func
from torch import fx, nn
from torch._dynamo.backends.common import aot_autograd

from lowmode_fx import LowModeConfig, LowModeModel, Mode, PeriodicSchedule, build_ladder

pytestmark = pytest.mark.usefixtures("nothing_compiled_yet")
IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
CONFIGS = {"low": LowModeConfig(kernel_ratio=1), "larger": LowModeConfig(ratio="4/3", kernel_ratio=1)}
SIDES = {"low": 6, "larger": 9}


class Backend(RecordingBackend):
    """Fails for graphs in which something has images' shape in a mode of ``failing``, or for each."""

    def __init__(self, failing: tuple[str, ...] = (), always: bool = False) -> None:
        super().__init__()
        self.shapes, self.always = [(2, 3, SIDES[mode], SIDES[mode]) for mode in failing], always

    def __call__(self, graph_module: fx.GraphModule, example_inputs: Any) -> Callable[..., Any]:
        run = super().__call__(graph_module, example_inputs)
        values = [node.meta.get("example_value") for node in graph_module.graph.nodes]
        if self.always or any(tuple(getattr(value, "shape", ())) in self.shapes for value in values):
            raise ValueError("the argument '-2 + ((0))' is not comparable")
        return run


def make(backend: Any, **options: Any) -> LowModeModel:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    ladder = build_ladder(model, IMAGES, CONFIGS)
    options = {"compile_options": {"backend": backend}, **options}
    return LowModeModel(ladder, PeriodicSchedule(2), **options).train()


def told(run: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(each.message) for each in caught if "torch.compile" in str(each.message)]


def every_mode(net: LowModeModel, times: int = 3) -> None:
    for _ in range(times):
        for mode in net.modes:
            net.run(mode, IMAGES)


def test_one_mode_runs_uncompiled_and_the_others_do_not() -> None:
    backend = Backend(failing=("larger",))
    net, plain = make(backend), make(None, compile=False)
    assert told(lambda: every_mode(net)) == [
        "torch.compile failed in larger-mode, so this mode runs uncompiled, slower, with the same results: ValueError: "
        "the argument '-2 + ((0))' is not comparable; compile=False runs all modes so, without a warning"
    ]
    assert net._runner.uncompiled == (Mode("larger"),)
    assert len(backend.graphs) == 3 + 1  # each mode once, and a trivial function
    for mode in net.modes:
        assert torch.equal(net.run(mode, IMAGES), plain.run(mode, IMAGES))


def test_each_mode_that_fails_is_reported() -> None:
    net = make(Backend(failing=("low", "larger")))
    first, second = told(lambda: every_mode(net))
    assert "failed in low-mode" in first and "failed in larger-mode" in second
    assert net._runner.uncompiled == (Mode.LOW, Mode("larger"))


def test_a_compiler_that_never_works_is_reported_once() -> None:
    backend = Backend(always=True)
    net = make(backend)
    (message,) = told(lambda: every_mode(net))
    assert message.startswith(
        "torch.compile does not work here, so all modes run uncompiled, slower, with the same results"
    )
    assert "ValueError: the argument '-2 + ((0))' is not comparable" in message
    assert len(backend.graphs) == 2 and net._runner.uncompiled == net.modes


def test_a_users_own_compile_is_not_tried_again() -> None:
    backend = Backend(always=True)
    net = make(None, compile=False)
    compiled = torch.compile(net, backend=backend)

    def steps() -> None:
        for _ in range(4):
            compiled(IMAGES)

    (message,) = told(steps)
    assert "does not work here" in message and len(backend.graphs) == 2


def test_a_backward_pass_that_fails_is_reported_by_the_forward() -> None:
    def fail(graph_module: fx.GraphModule, inputs: Any) -> Any:
        raise ValueError("no backward")

    def forward(graph_module: fx.GraphModule, inputs: Any) -> Any:
        return make_boxed_func(graph_module.forward)

    net, plain = make(aot_autograd(fw_compiler=forward, bw_compiler=fail)), make(None, compile=False)

    def step(net: LowModeModel) -> None:
        net.run(Mode.LOW, IMAGES).square().sum().backward()

    (message,) = told(lambda: step(net))
    assert "failed in low-mode" in message and "ValueError: no backward" in message
    step(plain)
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]


def test_modes_that_were_not_asked_to_be_compiled_are_reported_as_such() -> None:
    net = make(None, compile=False)
    assert told(lambda: every_mode(net)) == [] and net._runner.uncompiled == net.modes


class Broken(nn.Module):
    """Two graphs, the first of which has run when the second one fails to compile."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.head = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm(self.conv(x)))
        torch._dynamo.graph_break()
        return self.head(x)


def test_a_forward_that_has_run_in_part_is_not_run_twice() -> None:
    def run(**options: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        model = Broken()
        net = LowModeModel(build_ladder(model, IMAGES, CONFIGS), PeriodicSchedule(2), **options).train()
        torch.manual_seed(1)
        return net.run(Mode.FULL, IMAGES), dict(model.named_buffers())

    class SecondFails(RecordingBackend):
        def __call__(self, graph_module: fx.GraphModule, example_inputs: Any) -> Callable[..., Any]:
            run = super().__call__(graph_module, example_inputs)
            if len(self.graphs) == 2:
                raise ValueError("boom")
            return run

    with pytest.warns(UserWarning, match="torch.compile failed in full-mode"):
        outputs, buffers = run(compile_options={"backend": SecondFails()})
    plain, expected = run(compile=False)
    assert torch.equal(outputs, plain)
    assert all(torch.equal(buffers[name], value) for name, value in expected.items())
