"""Finds the parts of a model that are worth compiling one by one: its repeated blocks, and what stands beside them.

torch calls this regional compilation: a block that occurs many times is compiled once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

import torch
from torch import nn

from passes.match import is_convolution
from passes.patterns import select_names

#: Modules that hold others and have no arithmetic of their own.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_blocks(model: nn.Module) -> tuple[str, ...]:
    """Paths of the parts to compile, none inside another; empty if the model has none.

    A part holds layers, a convolution among them. It is a residual block, say, or a stage of blocks of different
    shapes. A stage of equal blocks is not a part: its blocks are, for less than half of it then has to be compiled.
    TorchScript is compiled already and no part.
    """
    return tuple(path for name, child in model.named_children() for path in _parts(child, name))


def named_blocks(model: nn.Module, globs: Sequence[str]) -> tuple[str, ...]:
    """Paths of the outermost modules that globs over module names match.

    Raises ``PassError`` for a glob that matches nothing, or TorchScript alone.
    """
    names = [name for name, module in model.named_modules() if name and _holds_others(module)]
    chosen = select_names(names, globs, "compile", "module that holds others")
    return tuple(
        name for name in names if name in chosen and not any(f"{name}.".startswith(f"{o}.") for o in chosen - {name})
    )


def kind_of(block: nn.Module) -> Hashable:
    """What two blocks have in common that one compilation can serve: classes, settings and shapes of all layers."""
    layers = tuple((name, type(layer), layer.extra_repr()) for name, layer in block.named_modules())
    shapes = tuple((name, tuple(value.shape), value.dtype) for name, value in block.named_parameters())
    return layers, shapes, "forward" in vars(block) and id(block)


def _parts(module: nn.Module, path: str) -> Iterator[str]:
    if not _holds_others(module) or not any(map(is_convolution, module.modules())):
        return
    inside = [part for name, child in module.named_children() for part in _parts(child, f"{path}.{name}")]
    is_container = type(module) in _CONTAINERS
    if inside and (is_container or _is_mostly_repeated(module, path, inside)):
        yield from inside
    elif type(module) not in (nn.ModuleList, nn.ModuleDict):  # these have no forward
        yield path


def _holds_others(module: nn.Module) -> bool:
    return next(module.children(), None) is not None and not isinstance(module, torch.jit.ScriptModule)


def _is_mostly_repeated(module: nn.Module, path: str, parts: Iterable[str]) -> bool:
    """Whether its parts hold all of its convolutions, and less than half of its layers if equal ones count once."""
    blocks = [module.get_submodule(part.removeprefix(f"{path}.")) for part in parts]
    held = {layer for block in blocks for layer in block.modules()}
    if any(is_convolution(layer) and layer not in held for layer in module.modules()):
        return False
    return 2 * _layers({kind_of(block): block for block in blocks}.values()) <= _layers([module])


def _layers(modules: Iterable[nn.Module]) -> int:
    return sum(next(layer.children(), None) is None for module in modules for layer in module.modules())
