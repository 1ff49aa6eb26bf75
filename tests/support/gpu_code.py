"""What inductor generates for a GPU, on a machine that may have none: generated, and neither compiled nor run.

Dynamo and autograd follow tensors of the CPU, the graphs that they give are moved to a GPU whose properties are made
up, and inductor lowers and generates as it does there. What it can't lower raises, as it does there.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import compile_fx, config
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch.utils import _triton
from torch.utils._pytree import tree_map, tree_map_only

GPU = torch.device("cuda", 0)
#: An H100's.
PROPERTIES = SimpleNamespace(
    name="NVIDIA H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 << 30,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    regs_per_multiprocessor=65536,
    warp_size=32,
    L2_cache_size=50 << 20,
    shared_memory_per_block=48 << 10,
    shared_memory_per_block_optin=227 << 10,
    shared_memory_per_multiprocessor=228 << 10,
)
_ANSWERS: dict[str, Any] = {
    "is_available": True,
    "is_triton_capable": True,
    "raise_if_triton_unavailable": None,
    "is_bf16_supported": True,
    "current_device": 0,
    "get_compute_capability": 90,
    "get_device_properties": PROPERTIES,
}
_ANSWERS_OF_CUDA: dict[str, Any] = {
    "current_device": 0,
    "device_count": 1,
    "get_device_capability": (9, 0),
    "get_device_properties": PROPERTIES,
}
_CACHED = (_triton.has_triton, DeviceProperties.create)


class _Generated(BaseException):
    """Carries generated code past everything that catches errors."""


class GpuCode:
    """A backend for ``torch.compile`` that generates a GPU's code and runs graphs uncompiled.

    sources: the code of each graph, in the order of compilation. errors: what was raised instead.
    """

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.errors: list[Exception] = []

    def __call__(self, graph_module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        return compile_fx.compile_fx(graph_module, inputs, inner_compile=self._inner_compile)

    def _inner_compile(self, graph_module: fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Any:
        # Whoever runs what is compiled may go on without it.
        try:
            self.sources.append(_source(graph_module, inputs, options))
        except Exception as error:
            self.errors.append(error)
            raise

        def run(arguments: list[Any]) -> Any:
            given = list(arguments)
            arguments.clear()
            return graph_module(*given)

        vars(run)["_boxed_call"] = True
        return run


@contextlib.contextmanager
def gpu_code() -> Iterator[GpuCode]:
    """Inside, functions that are compiled with this backend are generated for a GPU; the first error is raised last."""
    torch._dynamo.reset()
    found = GpuCode()
    with torch._functorch.config.patch(enable_autograd_cache=False):
        yield found
    torch._dynamo.reset()
    if found.errors:
        raise found.errors[0]


def _source(graph_module: fx.GraphModule, inputs: Sequence[Any], options: dict[str, Any]) -> str:
    moved = _on_gpu(graph_module)
    examples = [node.meta["val"] for node in moved.graph.find_nodes(op="placeholder")]
    assert len(examples) == len(inputs)
    try:
        with (
            _made_up_gpu(),
            mock.patch.object(GraphLowering, "compile_to_module", _generate),
            config.patch(fx_graph_cache=False, compile_threads=1),
        ):
            compile_fx.compile_fx_inner(moved, examples, **options)
    except _Generated as generated:
        return str(generated)
    raise AssertionError("inductor came to an end without having generated anything")


def _on_gpu(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy whose nodes make, and are said to make, tensors of the GPU."""
    graph = copy.deepcopy(graph_module.graph)
    for node in graph.nodes:
        node.args, node.kwargs = tree_map(_device, (node.args, node.kwargs))
        node.meta = {**node.meta, "val": tree_map_only(Tensor, _like, node.meta.get("val"))}
    moved = fx.GraphModule(graph_module, graph)
    moved.meta = dict(graph_module.meta)
    return moved


def _device(value: Any) -> Any:
    return GPU if isinstance(value, torch.device) else value


def _like(tensor: Any) -> Tensor:
    with tensor.fake_mode:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU)


@contextlib.contextmanager
def _made_up_gpu() -> Iterator[None]:
    """Inside, inductor finds a GPU: this machine's, or else one that is made up."""
    if torch.cuda.is_available():
        yield
        return
    answers: list[tuple[Any, str, Any]]
    answers = [(CudaInterface, name, staticmethod(_always(answer))) for name, answer in _ANSWERS.items()]
    answers += [(CudaInterface.Worker, "get_device_properties", staticmethod(_always(PROPERTIES)))]
    answers += [(torch.cuda, name, _always(answer)) for name, answer in _ANSWERS_OF_CUDA.items()]
    answers += [(_triton, "triton_hash_with_backend", _always("of no driver"))]
    with contextlib.ExitStack() as stack:
        for owner, name, answer in answers:
            stack.enter_context(mock.patch.object(owner, name, answer))
        # What was found out before, and what is found out here, holds for the other side no more.
        for cached in _CACHED:
            cached.cache_clear()
            stack.callback(cached.cache_clear)
        yield


def _always(answer: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: answer


def _generate(lowering: GraphLowering) -> Any:
    code, _ = lowering.codegen()
    raise _Generated(code.value)
