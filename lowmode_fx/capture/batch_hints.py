"""Examples that are a call of the model, and hold an image without a batch or of another dtype."""

from __future__ import annotations

from torch import fx, nn

from lowmode_fx.capture.inputs import ModelInputs
from passes.match import conv_sites
from passes.shapes import Shape, node_shape

_CONVS = nn.modules.conv._ConvNd
_BATCH = "give images (N, C, *S), as image.unsqueeze(0)"


def check_batched(graph_module: fx.GraphModule, inputs: ModelInputs) -> None:
    """Refuse images ``(C, *S)`` that a full graph convolves without a batch.

    Their channels would pass for a batch, and one side less would be downsampled. Raises ``ValueError``.
    """
    sites = conv_sites(graph_module)
    # With as many channels as the first side has, for a batch may also be convolved image by image.
    unbatched = {(len(site.kernel) + 1, site.in_channels) for site in sites if _ndim(site.node) == len(site.kernel) + 1}
    for leaf in inputs.leaves:
        if leaf.is_image and (len(leaf.shape), leaf.shape[0]) in unbatched:
            raise ValueError(f"{leaf.name} is {leaf.shape}, an image without a batch; {_BATCH}")


def failure_hint(model: nn.Module, inputs: ModelInputs) -> str:
    """What to try where the model fails on an example; empty if its images are as they should be."""
    images = [leaf for leaf in inputs.leaves if leaf.is_image]
    weight = next((value for value in model.parameters() if value.is_floating_point()), None)
    if weight is not None and {leaf.dtype for leaf in images} != {weight.dtype}:
        return f"give images of the weights' dtype, as images.to({weight.dtype})"
    dims = {len(module.kernel_size) for module in model.modules() if isinstance(module, _CONVS)}
    if len(dims) == 1 and any(len(leaf.shape) - 1 in dims for leaf in images):
        return f"if this is an image without a batch, {_BATCH}"
    return ""


def _ndim(node: fx.Node) -> int | None:
    shape = node_shape(node)
    return len(shape) if isinstance(shape, Shape) else None
