"""Random CNNs as plain data that prints: what ``strategies`` draws and ``spec_modules`` builds."""

from __future__ import annotations

from dataclasses import dataclass

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ConvSpec:
    """One conv. ``padding`` in pairs (before, after) is an explicit pad in front of a conv without padding."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: int | tuple[int, ...] | str | Pairs
    groups: int = 1
    bias: bool = True
    padding_mode: str = "zeros"
    functional: bool = False
    transposed: bool = False
    output_padding: tuple[int, ...] = ()


@dataclass(frozen=True)
class UnitSpec:
    """Conv, norm and activation, or with ``norm_first`` norm, activation and conv."""

    conv: ConvSpec
    norm: str = "none"
    activation: str = "none"
    norm_first: bool = False


@dataclass(frozen=True)
class MaxPoolSpec:
    kernel: tuple[int, ...]
    stride: int
    padding: int
    ceil_mode: bool = False
    functional: bool = False


@dataclass(frozen=True)
class ResidualSpec:
    body: tuple[UnitSpec, ...]
    shortcut: UnitSpec | None
    activation: str


@dataclass(frozen=True)
class ConcatSpec:
    branches: tuple[tuple[UnitSpec, ...], ...]


@dataclass(frozen=True)
class TwiceSpec:
    """One module, called on its own output."""

    unit: UnitSpec


@dataclass(frozen=True)
class TiedSpec:
    """Two units whose convs hold one and the same kernel."""

    units: tuple[UnitSpec, UnitSpec]


NodeSpec = UnitSpec | MaxPoolSpec | ResidualSpec | ConcatSpec | TwiceSpec | TiedSpec


@dataclass(frozen=True)
class CNNSpec:
    stages: tuple[tuple[NodeSpec, ...], ...]
    channels: int
    features: int
    classes: int
    size: tuple[int, ...]
    head: str
    seed: int

    @property
    def dims(self) -> int:
        return len(self.size)


def units_of(node: NodeSpec) -> list[UnitSpec]:
    match node:
        case UnitSpec():
            return [node]
        case ResidualSpec(body, shortcut):
            return [*body, *([] if shortcut is None else [shortcut])]
        case ConcatSpec(branches):
            return [unit for branch in branches for unit in branch]
        case TwiceSpec(unit):
            return [unit]
        case TiedSpec(units):
            return list(units)
    return []


def convs_of(spec: CNNSpec) -> list[ConvSpec]:
    return [unit.conv for stage in spec.stages for node in stage for unit in units_of(node)]
