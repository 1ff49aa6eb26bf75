"""What torch keeps to itself stands in one room, and a name that it moves costs one feature."""

from __future__ import annotations

import ast
import importlib
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from passes import bind_graph, propagate_shapes
from passes.torch_internals import (
    as_parameter,
    compiler_errors,
    fake_norms_by_layout,
    fake_tensor_mode,
    graphs_alone,
    in_backward_pass,
    written_tensors,
)

ROOT = Path(__file__).parents[2]
PRIVATE = (
    "torch._dynamo",
    "torch._functorch",
    "torch._inductor",
    "torch._subclasses",
    "torch._C",
    "torch.utils._device",
)


def modules_used(path: Path) -> Iterator[str]:
    """What a file imports, and dotted names in its code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def test_private_modules_are_used_in_one_room() -> None:
    files = [path for room in ("passes", "lowmode_fx") for path in (ROOT / room).rglob("*.py")]
    found = {path.parent for path in files for name in modules_used(path) if name.startswith(PRIVATE)}
    assert found == {ROOT / "passes" / "torch_internals"}


WITHOUT = """
import sys, timm, torch, torch._subclasses.fake_tensor
sys.modules["torch._dynamo.exc"] = sys.modules["torch._inductor.exc"] = None  # importing them raises
del torch._subclasses.fake_tensor.FakeTensorMode  # of a module that meta tensors need themselves
from lowmode_fx import build_pair
from passes.torch_internals import compiler_errors
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 4, 3))
pair = build_pair(model, torch.zeros(2, 3, 8, 8))
print(len(pair.report.pooled), compiler_errors())
"""


def test_without_them_the_package_imports_and_builds_pairs() -> None:
    ran = subprocess.run([sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "1 ()\n", ran.stderr


def test_without_constructors_shapes_come_from_fake_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    graph_module = bind_graph(model, fx.Tracer().trace(model), "Traced")
    expected = propagate_shapes(graph_module, torch.zeros(2, 3, 8, 8))
    monkeypatch.delattr("torch.utils._device._device_constructors")
    assert propagate_shapes(graph_module, torch.zeros(2, 3, 8, 8)) == expected


def test_compiler_errors_leave_out_what_torch_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {error.__name__ for error in compiler_errors()}
    assert known == {
        "BackendCompilerFailed", "CppCompileError", "GPUTooOldForTriton", "InvalidCxxCompiler", "TritonMissing"
    }  # fmt: skip
    monkeypatch.delattr("torch._inductor.exc.TritonMissing")
    assert {error.__name__ for error in compiler_errors()} == known - {"TritonMissing"}


def test_written_tensors() -> None:
    first, second = torch.zeros(3), torch.zeros(3)
    aten = torch.ops.aten
    cases: list[tuple[object, tuple[object, ...], dict[str, object], list[Tensor]]] = [
        (aten.add.Tensor, (first, second), {}, []),
        (aten.add_.Tensor, (first, second), {}, [first]),
        (aten.add.out, (first, first), {"out": second}, [second]),
        (aten._foreach_add_.Scalar, ([first, second], 1), {}, [first, second]),
        (aten.native_batch_norm.default, (first, None, None, first, second, True, 0.1, 1e-5), {}, [first, second]),
        (aten.native_batch_norm.default, (first, None, None, None, None, True, 0.1, 1e-5), {}, []),
    ]
    for operator, args, kwargs, expected in cases:
        found = written_tensors(operator, args, kwargs)
        assert [id(tensor) for tensor in found] == [id(tensor) for tensor in expected], operator


def test_a_backward_pass_is_reported() -> None:
    told: list[bool] = []

    class Asking(torch.autograd.Function):
        @staticmethod
        def forward(context: object, x: Tensor) -> Tensor:
            told.append(in_backward_pass())
            return x.clone()

        @staticmethod
        def backward(context: object, gradient: Tensor) -> Tensor:
            told.append(in_backward_pass())
            return gradient

    Asking.apply(torch.ones(1, requires_grad=True)).backward()
    assert told == [False, True] and not in_backward_pass()


def test_a_fake_becomes_a_parameter_itself() -> None:
    with fake_tensor_mode():
        fake = torch.zeros(2, 3)
    assert as_parameter(fake, True) is fake
    assert isinstance(fake, nn.Parameter) and fake.requires_grad and fake.is_leaf
    module = nn.Module()
    module.weight = fake
    assert dict(module.named_parameters())["weight"] is fake


def stack_traces() -> Any:
    return getattr(getattr(torch.fx, "config", None), "do_not_emit_stack_traces", None)


STACK_TRACES = stack_traces()


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def exported() -> torch.export.ExportedProgram:
    return torch.export.export(Doubling(), (torch.ones(2),), strict=False)


@pytest.mark.skipif(STACK_TRACES is None, reason="this torch always records places in the source")
def test_graphs_alone_have_no_places_and_run_all_the_same() -> None:
    assert any(node.stack_trace for node in exported().graph.nodes)
    with graphs_alone():
        program = exported()
    assert stack_traces() is STACK_TRACES
    assert not any(node.stack_trace for node in program.graph.nodes)
    assert torch.equal(program.module()(torch.ones(2)), torch.full((2,), 2.0))
    with pytest.raises(KeyError), graphs_alone():
        raise KeyError
    assert stack_traces() is STACK_TRACES


def test_graphs_alone_without_these_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch.fx.config.do_not_emit_stack_traces", raising=False)
    monkeypatch.setitem(sys.modules, "torch.fx._lazy_graph_module", None)
    with graphs_alone():
        pass
    assert stack_traces() is None


FORMATS = (torch.contiguous_format, torch.channels_last)
SHAPES = ((2, 3, 4, 5), (2, 3, 7), (2, 3, 1, 1))
NORMS = [
    *(
        (*each, True)
        for each in itertools.product(SHAPES, (torch.float32, torch.bfloat16), FORMATS, (torch.float32, None))
    ),
    ((2, 3, 4, 5), torch.float32, torch.contiguous_format, torch.float32, False),
]


@pytest.fixture
def decomposed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The shapes of images whose norms torch decomposes."""
    module = importlib.import_module("torch._decomp.decompositions")
    helper, found = module.native_batch_norm_helper, []

    def noted(images: Tensor, *args: Any) -> Any:
        found.append(images.shape)
        return helper(images, *args)

    monkeypatch.setattr(module, "native_batch_norm_helper", noted)
    return found


def norm(shape: tuple[int, ...], dtype: torch.dtype, memory_format: Any, weights: Any, training: bool) -> list[Any]:
    images = torch.zeros(shape, dtype=dtype)
    images = images.contiguous(memory_format=memory_format) if len(shape) == 4 else images.transpose(0, -1)
    channels = images.shape[1]
    weight = None if weights is None else torch.zeros(channels, dtype=weights)
    mean, var = torch.zeros(channels), torch.zeros(channels)
    FakeTensorMode.cache_clear()
    found = torch.ops.aten._native_batch_norm_legit.default(images, weight, weight, mean, var, training, 0.1, 1e-5)
    return [(each.shape, each.stride(), each.dtype, each.device) for each in found]


def test_fake_norms_by_layout_are_those_of_torch(decomposed: list[Any]) -> None:
    with fake_tensor_mode():
        expected = [norm(*each) for each in NORMS]
        assert len(decomposed) == len(NORMS)
        with fake_norms_by_layout():
            assert [norm(*each) for each in NORMS] == expected
            assert 0 < len(decomposed) - len(NORMS) < len(NORMS)


def test_fake_norms_of_others_are_torch_s_own(decomposed: list[Any]) -> None:
    def in_another_thread() -> None:
        with fake_tensor_mode():
            norm(*NORMS[0])

    with fake_norms_by_layout():
        thread = threading.Thread(target=in_another_thread)
        thread.start()
        thread.join()
        assert len(decomposed) == 1
    with fake_tensor_mode():
        norm(*NORMS[0])
    assert len(decomposed) == 2
