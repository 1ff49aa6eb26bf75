"""Private names of torch that this project needs, each imported where it is used.

If torch moves a name, only the feature that needs it fails, not the import of this project.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from passes.wording import first_line

#: The logger to which fake tensors write errors with tracebacks.
FAKE_TENSOR_LOGGER = "torch._subclasses.fake_tensor"
#: The registries of a module, which graph modules share with their model.
REGISTRIES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")

_COMPILER_ERRORS = {
    "torch._dynamo.exc": ("BackendCompilerFailed",),
    "torch._inductor.exc": ("InvalidCxxCompiler", "CppCompileError", "TritonMissing", "GPUTooOldForTriton"),
}


def compiler_errors() -> tuple[type[Exception], ...]:
    """The errors of ``torch.compile`` without a working compiler, as far as this version of torch has them."""
    found: list[type[Exception]] = []
    for module_name, names in _COMPILER_ERRORS.items():
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        found += [getattr(module, name) for name in names if hasattr(module, name)]
    return tuple(found)


def compiler_complaint(error: Exception) -> str:
    """The cause of one of ``compiler_errors``, in one line: the innermost error, with its type."""
    while isinstance(below := getattr(error, "inner_exception", None), Exception):
        error = below
    said = first_line(error)
    return said if said == type(error).__name__ else f"{type(error).__name__}: {said}"


def can_compile(compiler: Callable[[Any], Callable[..., Any]], device: torch.device) -> bool:
    """Whether ``compiler``, a ``torch.compile`` with its options, can compile a trivial function for a device."""

    def trivial(values: Tensor) -> Tensor:
        return values + 1

    try:
        compiler(trivial)(torch.zeros(2, device=device))
    except compiler_errors():
        return False
    return True


def is_uncaptured_operator(error: Exception) -> bool:
    """Whether the error says that a higher-order operator (``torch.cond``) can't be traced call by call."""
    return any(kind.__name__ == "UncapturedHigherOrderOpError" for kind in type(error).__mro__)


def is_jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` is active, as when fvcore counts."""
    from torch.jit import is_tracing  # type: ignore[attr-defined]

    return bool(is_tracing())


def in_backward_pass() -> bool:
    """Whether a backward pass on this thread runs the caller."""
    from torch._C import _current_graph_task_id

    return int(_current_graph_task_id()) != -1


def fake_tensor_mode() -> Any:
    """A mode in which tensors have shapes and no values; real ones are allowed and stay as they are."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def fake_tensor_mode_without_kernels() -> Any:
    """A mode in which no kernel ever runs: operators without shape rules raise."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_fallback_kernels=False)


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor has shapes and no values."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


def version_of(tensor: Tensor) -> int | None:
    """The version counter of a tensor; ``None`` if it has none, as for inference tensors."""
    return None if tensor.is_inference() else tensor._version


def sum_of_versions(tensors: Iterable[Tensor]) -> int:
    """It changes where one of the tensors is written to; 0 if one has no version counter."""
    try:
        return sum(tensor._version for tensor in tensors)
    except RuntimeError:
        return 0


def found_infinite(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> Tensor | None:
    """Whether ``scaler`` found infinite gradients in the step of ``optimizer``, before its ``update``.

    A tensor on the device, above 0 if so; ``None`` if the scaler is disabled. Reading it waits for the device.
    """
    if not scaler.is_enabled():
        return None
    found = list(scaler._found_inf_per_device(optimizer).values())
    return found[0] if len(found) == 1 else torch.stack([each.to(found[0].device) for each in found]).sum()


def fake_of(mode: Any, device: torch.device, make: Callable[[], Tensor]) -> Tensor:
    """A fake tensor of ``mode``, on ``device``, from the meta tensor that ``make`` makes from meta and fake tensors.

    It bypasses the mode, which takes most of the time of an operator whose result is known.
    """
    fake_tensor = _fake_tensor_module()
    with fake_tensor.in_kernel_invocation_manager(mode):
        meta = make()
    fake: Tensor = fake_tensor.FakeTensor(mode, meta, device)
    return fake


@functools.cache
def _fake_tensor_module() -> Any:
    return importlib.import_module("torch._subclasses.fake_tensor")


def as_parameter(fake: Tensor, requires_grad: bool) -> Tensor:
    """The fake tensor itself as a parameter. ``nn.Parameter`` would make a view of it first."""
    fake._is_param = True  # what isinstance(_, nn.Parameter) asks for
    return fake.requires_grad_(requires_grad)


def without_modes() -> Any:
    """A context in which tensors are real again, inside a fake mode and modes above it."""
    from torch.utils._python_dispatch import _disable_current_modes

    return _disable_current_modes()


def errors_of_unknown_values() -> tuple[type[Exception], ...]:
    """The errors of fake tensors when a value is read, or when it decides a shape."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    return DataDependentOutputException, DynamicOutputShapeException


def autocast_depth() -> int:
    """How many ``torch.autocast`` blocks, on or off, are active here; it also works below autocast's own dispatch."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def device_constructors() -> Collection[Callable[..., Any]]:
    """Functions of torch that create tensors on a given device."""
    from torch.utils._device import _device_constructors

    constructors: Collection[Callable[..., Any]] = _device_constructors()
    return constructors


def written_tensors(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The arguments of an ATen operator that it writes to."""
    written: list[Tensor] = []
    for place, argument in enumerate(operator._schema.arguments):
        aliased = argument.alias_info is not None and argument.alias_info.is_write
        # Batch norms update their statistics, although their signatures don't show it.
        if aliased or argument.name in ("running_mean", "running_var"):
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            values = value if isinstance(value, list | tuple) else [value]
            written += [each for each in values if isinstance(each, Tensor)]
    return written


def compiled_graphs() -> int:
    """How many graphs dynamo has compiled in this process."""
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", None)
    return int(counters["stats"]["unique_graphs"]) if counters is not None else 0


def failed_guard() -> str:
    """What dynamo found changed when it last compiled something again, as an expression; empty if it keeps none."""
    metrics: list[Any] = getattr(sys.modules.get("torch._dynamo.utils"), "get_compilation_metrics", list)()
    reasons = (getattr(each, "recompile_reason", None) for each in reversed(metrics))
    return str(next(filter(None, reasons), "")).partition("#")[0]


@contextlib.contextmanager
def graphs_alone() -> Iterator[None]:
    """Inside, tracing makes graphs without what is not needed to read them, as far as this version of torch can.

    That is the code of each graph module, until it runs, and the place in the source of each node.
    """
    settings: Any = getattr(torch.fx, "config", None)
    traced = getattr(settings, "do_not_emit_stack_traces", None)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, AttributeError):
            lazily = importlib.import_module("torch.fx._lazy_graph_module")._use_lazy_graph_module
            stack.enter_context(lazily(True))
        if traced is not None:
            settings.do_not_emit_stack_traces = True
            stack.callback(setattr, settings, "do_not_emit_stack_traces", traced)
        yield


@contextlib.contextmanager
def fake_norms_by_layout() -> Iterator[None]:
    """Inside, this thread's fake batch norms in training have the layout of their images.

    Torch runs twenty operators for each, a sixth of the time of an export. It still does for mixed or low precision.
    """
    module: Any = importlib.import_module("torch._decomp.decompositions")
    helper: Any = getattr(module, "native_batch_norm_helper", None)
    thread = threading.get_ident()

    def by_layout(*args: Any, **kwargs: Any) -> Any:
        if kwargs or threading.get_ident() != thread or not _has_layout_of_images(*args):
            return helper(*args, **kwargs)
        images, _, _, mean, var, *_ = args
        statistics = (images.new_empty(images.shape[1]) for _ in range(2))
        return torch.empty_like(images), *statistics, mean, var

    if helper is not None:
        module.native_batch_norm_helper = by_layout
    try:
        yield
    finally:
        if helper is not None:
            module.native_batch_norm_helper = helper


def _has_layout_of_images(images: Tensor, *args: Any) -> bool:
    *tensors, training, _, _, functional = args
    whole = images.is_contiguous() or (images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last))
    precise = images.dtype in (torch.float32, torch.float64)
    alike = all(each is None or each.dtype is images.dtype for each in tensors)
    return is_fake(images) and training and not functional and whole and precise and alike


@contextlib.contextmanager
def hooks_guarded() -> Iterator[None]:
    """Inside, compiled code detects hooks that are added to modules, or removed, later."""
    config: Any = torch._dynamo.config
    before = config.skip_nnmodule_hook_guards
    config.skip_nnmodule_hook_guards = False  # torch's ``patch`` takes four times as long, at every step
    try:
        yield
    finally:
        config.skip_nnmodule_hook_guards = before


@contextlib.contextmanager
def at_least_recompilations(number: int) -> Iterator[None]:
    """Inside, dynamo compiles one function up to ``number`` times, if its own limit is lower."""
    config: Any = torch._dynamo.config
    before = config.recompile_limit
    config.recompile_limit = max(before, number)
    try:
        yield
    finally:
        config.recompile_limit = before


@contextlib.contextmanager
def training_graphs_through(graph_pass: Callable[[fx.Graph], None]) -> Iterator[None]:
    """Inside, inductor hands graphs of a forward and its backward to ``graph_pass`` before it changes and divides them.

    A pass of that kind that the user has set stays, and this one is left out. ``graph_pass``: a function that depends
    on nothing but its file.
    """
    config: Any = importlib.import_module("torch._inductor.config")
    before = config.joint_custom_pre_pass
    if before is not None:
        yield
        return
    config.joint_custom_pre_pass = _inductor_pass(graph_pass)
    try:
        yield
    finally:
        config.joint_custom_pre_pass = before


@functools.cache
def _inductor_pass(graph_pass: Callable[[fx.Graph], None]) -> Any:
    """In the form whose results inductor caches on disk."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class Pass(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            graph_pass(graph)

        def uuid(self) -> Any:
            return get_hash_for_files((inspect.getfile(graph_pass),))

    return Pass()


def isolated(compiler: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile`` with options, such that each call has its own limit of recompilations, where torch can."""
    keywords = dict(getattr(compiler, "keywords", {}))
    if getattr(compiler, "func", compiler) is not torch.compile:
        return compiler
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        keywords.setdefault("isolate_recompiles", True)
    return partial(torch.compile, **keywords)


@contextlib.contextmanager
def backward_compiled_at_once() -> Iterator[None]:
    """Inside, backward passes are compiled with their forwards, so that their errors come while a fallback can run."""
    config: Any = torch._functorch.config
    before = config.force_non_lazy_backward_lowering
    config.force_non_lazy_backward_lowering = True
    try:
        yield
    finally:
        config.force_non_lazy_backward_lowering = before


def end_allocation_to(pool: Any) -> None:
    """Stop the current CUDA device from allocating in a pool of CUDA graphs, as a capture does at its end.

    Raises:
        RuntimeError: The device does not allocate in this pool.
    """
    torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)


def dict_version() -> Callable[[dict[Any, Any]], int] | None:
    """A function that gives a dictionary another number after each write to it; ``None`` if this torch has none.

    A change of an ``OrderedDict``'s order alone is no write.
    """
    try:
        found: Callable[[dict[Any, Any]], int] = importlib.import_module("torch._C._dynamo.guards").dict_version
    except (ImportError, AttributeError):
        return None

    class Probe:
        value = 0

    probe = Probe()
    probe.value = 1
    before = found(vars(probe))
    probe.value = 2
    return found if found(vars(probe)) != before == before else None


def unwritten(dictionaries: list[dict[Any, Any]]) -> Callable[[], bool] | None:
    """A function that tells whether none of these dictionaries has been written to since this call.

    It is one call of a tree of dynamo's guards, a third of the time of ``dict_version`` for each. Making it takes about
    8 µs per dictionary. ``None`` if this torch can't.
    """
    spellings: tuple[Any, ...] = (([], None), ([],))  # older versions of torch take no stack
    for rest in spellings:
        with contextlib.suppress(ImportError, AttributeError, TypeError):
            guards: Any = importlib.import_module("torch._C._dynamo.guards")
            plain = importlib.import_module("torch._dynamo.guards").GuardManagerType.GUARD_MANAGER
            root = guards.RootGuardManager()
            for place, dictionary in enumerate(dictionaries):
                root.list_getitem_manager(place, "", None, plain).add_dict_version_guard(dictionary, *rest)
            return partial(root.check, dictionaries)
    return None


def unchanged_tensors(tensors: Sequence[Tensor]) -> Callable[[], bool] | None:
    """A function that tells whether tensors still have the properties of this call; ``None`` if this torch has none.

    These are class, dtype, device, sizes, strides and ``requires_grad``.
    """
    if any(each.layout is not torch.strided or each.is_nested for each in tensors):
        return None
    sizes, strides = [list(each.shape) for each in tensors], [list(each.stride()) for each in tensors]
    try:
        guards: Any = importlib.import_module("torch._C._dynamo.guards")
        found = guards.TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    except (ImportError, AttributeError, TypeError):
        return None
    return partial(found.check, *tensors) if found.check(*tensors) else None


def frames_are_compiled() -> bool:
    """Whether dynamo compiles the frames that Python runs now."""
    from torch._C._dynamo.eval_frame import get_eval_frame_callback

    return get_eval_frame_callback() not in (None, False)


def leave_frames_of(function: Callable[..., Any]) -> None:
    """Keep dynamo from compiling frames of ``function``; it still traces calls of it from compiled code."""
    eval_frame = sys.modules.get("torch._dynamo.eval_frame")
    if eval_frame is not None:  # otherwise nothing has been compiled yet
        eval_frame.skip_code(function.__code__)


def compiler_around() -> Callable[[Callable[..., Any]], Callable[..., Any]] | None:
    """The active ``torch.compile``, with its options, if code that it compiles runs the caller."""
    frame = sys._getframe(1).f_back
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch._dynamo.eval_frame":
            context: Any = frame.f_locals.get("self")
            if type(context).__name__ == "OptimizeContext":
                return context  # type: ignore[no-any-return]
        frame = frame.f_back
    return None


def is_symbolic_tracing() -> bool:
    """Whether ``torch.fx`` is tracing."""
    from torch.fx._symbolic_trace import is_fx_symbolic_tracing

    return bool(is_fx_symbolic_tracing())
