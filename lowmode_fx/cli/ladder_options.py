"""``--ladder``: several low modes by their ratios, as the command line spells them, and the ladder that they make."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

from lowmode_fx.cli.options import Low, low_mode_config
from lowmode_fx.lowering.config import LowModeConfig
from passes.ratios import ratio_terms

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lowmode_fx.lowering.ladder import Ladder, ModePair

#: For commands that look at a model; epochs, and full-mode at the end, may stand in it and don't count.
LadderOption = Annotated[str | None, Low(help="Several low modes by their ratios, the cheapest first: 2,4/3.")]

EXAMPLE = "2x10,4/3x6,1x3"
_PART = re.compile(r"(\d+(?:\.\d+|/0*[1-9]\d*)?)(?:x(\d+))?")


@dataclass(frozen=True)
class LadderPlan:
    """Parse ``--ladder``.

    ``ratios``: of the low modes, the largest first. ``epochs``: for each mode that is named; empty where none are
    given. ``ends_full``: whether full-mode is named, at the end.
    """

    text: str
    ratios: tuple[Fraction, ...]
    epochs: tuple[int, ...]
    ends_full: bool


def read_ladder(text: str) -> LadderPlan:
    """``"2x10,4/3x6,1x3"``: ratios, each with its epochs or none with any, the largest first; 1 is full-mode.

    Raises ``ValueError`` for anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    found = [(part, _PART.fullmatch(part)) for part in parts]
    wrong = next((part for part, match in found if match is None or Fraction(match[1]) < 1), None)
    if wrong is not None:
        raise ValueError(f"--ladder has {wrong!r}, which is no ratio of at least 1; give ratios, as in {EXAMPLE}")
    matches = [match for _, match in found if match is not None]
    ratios = [Fraction(*ratio_terms(match[1], "ladder")) for match in matches]
    epochs = [int(match[2]) for match in matches if match[2] is not None]
    if not all(larger > smaller for larger, smaller in pairwise(ratios)):
        ordered = dict(sorted(zip(ratios, parts, strict=True), reverse=True))
        raise ValueError(
            f"--ladder {text} is not in order: the cheapest mode comes first, full-mode (1) last, each once; give "
            f"{','.join(ordered.values())}"
        )
    if epochs and len(epochs) < len(parts):
        raise ValueError(f"--ladder {text} gives epochs to some of its modes; give them to all, as in {EXAMPLE}")
    low = tuple(ratio for ratio in ratios if ratio != 1)
    if not low:
        raise ValueError(f"--ladder {text} has no low mode; give ratios above 1, as in {EXAMPLE}")
    return LadderPlan(text, low, tuple(epochs), len(low) < len(ratios))


def low_mode_configs(
    preset: str | LowModeConfig | None, plan: LadderPlan | None, low: Mapping[str, Any]
) -> list[LowModeConfig]:
    """The low modes of a command: one of ``low``, the options as ``low_mode_config`` takes them, or one a ratio.

    Raises ``ValueError`` for what is not allowed.
    """
    if plan is None:
        return [low_mode_config(preset, **low)]
    if low.get("ratio") is not None:
        raise ValueError(f"--ratio {low['ratio']} and --ladder {plan.text} exclude each other; give one of them")
    return [low_mode_config(preset, **{**low, "ratio": ratio}) for ratio in plan.ratios]


def build_modes(
    model: nn.Module, example: Tensor, configs: Sequence[LowModeConfig], submodule: str | None = None
) -> Ladder:
    """A pair of one config, a ladder of several. What their reports note is not warned of, too.

    Raises ``ValueError`` for a model without a correct low mode, and for one that returns no tensor.
    """
    from lowmode_fx.lowering.pair import build_ladder, build_pair
    from lowmode_fx.lowering.report import NoEffectWarning
    from passes.checks import output_node
    from passes.shapes import Shape, node_shape
    from passes.trees import tree_leaves

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        if len(configs) == 1:
            modes: Ladder = build_pair(model, example, configs[0], submodule=submodule)
        else:
            modes = build_ladder(model, example, configs, submodule=submodule)
    if not any(isinstance(leaf, Shape) for leaf in tree_leaves(node_shape(output_node(modes.full.graph)))):
        raise ValueError(f"{type(modes.model).__name__} returns no tensor; give a model that returns logits or maps")
    return modes


def rung_pair(ladder: Ladder, name: str | None) -> ModePair:
    """Full-mode with the low mode of this name, or with the cheapest.

    Raises ``ValueError`` for a name that no low mode of the ladder has.
    """
    from lowmode_fx.lowering.ladder import ModePair

    rungs = {str(rung.mode): rung for rung in ladder.rungs}
    if name is not None and name not in rungs:
        raise ValueError(f"--mode {name!r} is no low mode; give {', '.join(rungs)}")
    return ModePair(ladder.model, ladder.full, (rungs[name] if name else ladder.rungs[0],), ladder.inputs, ladder.live)
