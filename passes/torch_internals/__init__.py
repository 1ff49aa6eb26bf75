"""Private names of torch that this project needs, each imported where it is used.

If torch moves a name, only the feature that needs it fails, not the import of this project.
"""

from passes.torch_internals.compiled_frames import (
    compiled_graphs,
    compiler_around,
    failed_guard,
    frames_are_compiled,
    leave_frames_of,
    makes_cuda_graphs,
)
from passes.torch_internals.compiler_failures import (
    can_compile,
    compiler_complaint,
    compiler_errors,
    is_uncaptured_operator,
)
from passes.torch_internals.compiler_settings import (
    at_least_recompilations,
    backward_compiled_at_once,
    hooks_guarded,
    training_graphs_through,
    with_own_code,
)
from passes.torch_internals.dynamo_guards import dict_version, unchanged_tensors, unwritten
from passes.torch_internals.fake_tensors import (
    as_parameter,
    errors_of_unknown_values,
    fake_of,
    fake_tensor_mode,
    fake_tensor_mode_without_kernels,
    is_fake,
    without_modes,
)
from passes.torch_internals.logs import logs_wanted, quiet_misfits
from passes.torch_internals.tensors import REGISTRIES, device_constructors, sum_of_versions, version_of, written_tensors
from passes.torch_internals.tracing import fake_norms_by_layout, graphs_alone, is_jit_tracing, is_symbolic_tracing
from passes.torch_internals.training_steps import (
    autocast_depth,
    end_allocation_to,
    found_infinite,
    in_backward_pass,
    in_forward_mode,
)

__all__ = [
    "REGISTRIES",
    "as_parameter",
    "at_least_recompilations",
    "autocast_depth",
    "backward_compiled_at_once",
    "can_compile",
    "compiled_graphs",
    "compiler_around",
    "compiler_complaint",
    "compiler_errors",
    "device_constructors",
    "dict_version",
    "end_allocation_to",
    "errors_of_unknown_values",
    "failed_guard",
    "fake_norms_by_layout",
    "fake_of",
    "fake_tensor_mode",
    "fake_tensor_mode_without_kernels",
    "found_infinite",
    "frames_are_compiled",
    "graphs_alone",
    "hooks_guarded",
    "in_backward_pass",
    "in_forward_mode",
    "is_fake",
    "is_jit_tracing",
    "is_symbolic_tracing",
    "is_uncaptured_operator",
    "leave_frames_of",
    "logs_wanted",
    "makes_cuda_graphs",
    "quiet_misfits",
    "sum_of_versions",
    "training_graphs_through",
    "unchanged_tensors",
    "unwritten",
    "version_of",
    "with_own_code",
    "without_modes",
    "written_tensors",
]
