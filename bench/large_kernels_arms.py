"""The arms of the comparison with large kernels: which low modes, and when, all in the same time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lowmode_fx import LowModeConfig

#: Images of half the side with kernels kept, and the sizes up to the full one: 16, 20, 24 and 28 of 32 pixels.
KEPT = LowModeConfig(kernel_ratio=1)
RAMP = {f"kept {size}": LowModeConfig(ratio=f"8/{size}", kernel_ratio=1) for size in (4, 5, 6, 7)}
AVERAGED = LowModeConfig(pool_convs="large")
BICUBIC = LowModeConfig(pool_convs="large", kernel_transform="bicubic")
LINEAR = LowModeConfig(pool_convs="large", kernel_transform="linear")
RESIZED = LowModeConfig(pool_convs="large", kernel_transform="pi_resize")
RESIZED_SHARED = LowModeConfig(pool_convs="large", kernel_transform="pi_resize", batchnorm="share")
RESIZED_COVER = LowModeConfig(pool_convs="large", kernel_transform="pi_resize", rounding="cover")
#: The low modes that arms use, by the names in their plans.
MODES: dict[str, LowModeConfig] = {
    **RAMP,
    "averaged": AVERAGED,
    "bicubic": BICUBIC,
    "linear": LINEAR,
    "resized": RESIZED,
    "resized, cover": RESIZED_COVER,
    "resized, shared norms": RESIZED_SHARED,
    "bicubic 8/3": LowModeConfig(ratio="8/3", pool_convs="large", kernel_transform="bicubic"),
    "resized 4/3": LowModeConfig(ratio="4/3", pool_convs="large", kernel_transform="pi_resize"),
}

#: Shares of full-mode's time that other arms have, and one for smaller images alone: how long do these need?
BUDGETS = (0.5, 0.25, 0.2)
LONGER = 0.75


@dataclass(frozen=True)
class Arm:
    """Shares of a run's *time* by mode, in order; ``mixed``: low modes are drawn step by step, before the full tail.

    ``budget``: share of the time that full-mode takes for all its epochs. ``over_time``: the learning rate falls over
    the run's time instead of its steps, so that a full tail begins at a higher one.
    """

    name: str
    shares: Mapping[str, float] = field(default_factory=dict)
    budget: float = 1.0
    mixed: bool = False
    over_time: bool = False

    def epochs(self, full_epochs: int, costs: Mapping[str, float]) -> dict[str, int]:
        """Whole epochs of each mode, ``full`` last; ``costs``: time of a low step divided by a full step's."""
        time = full_epochs * self.budget
        if not self.shares:
            return {"full": round(time)}
        tail = max(1, round(time * self.shares["full"]))
        low = {mode: share for mode, share in self.shares.items() if mode != "full"}
        scale = (time - tail) / sum(low.values())
        counts = {mode: max(1, round(scale * share / costs[mode])) for mode, share in low.items()}
        return {**counts, "full": tail}


def composers_ramp(costs: Mapping[str, float]) -> dict[str, float]:
    """Composer's progressive resizing with its defaults, in shares of time.

    Half of the *steps* are at half the side, three tenths at the sizes between, in equal parts, a fifth at full.
    """
    sizes = list(RAMP)
    steps = {sizes[0]: 0.5, **dict.fromkeys(sizes[1:], 0.3 / (len(sizes) - 1)), "full": 0.2}
    return {mode: share * costs.get(mode, 1.0) for mode, share in steps.items()}


def arms(costs: Mapping[str, float]) -> list[Arm]:
    """The arms: full-mode, of full length and cut short, and the others in shares of its time."""
    ramp = composers_ramp(costs)
    ramp = {mode: share / sum(ramp.values()) for mode, share in ramp.items()}
    found = [
        Arm("full-mode"),
        Arm("Composer's ramp", ramp, LONGER),
        Arm("Composer's ramp, rate over time", ramp, LONGER, over_time=True),
    ]
    for budget in BUDGETS:
        tail = 0.4
        two = {"full": tail}
        found += [
            Arm("full-mode, cut", {}, budget),
            Arm("kept", {"kept 4": 1 - tail, **two}, budget),
            Arm("kept, ladder", {"kept 4": 0.4, "kept 6": 0.2, **two}, budget),
            Arm("Composer's ramp", ramp, budget),
            Arm("resized", {"resized": 1 - tail, **two}, budget),
            Arm("averaged", {"averaged": 1 - tail, **two}, budget),
            Arm("linear", {"linear": 1 - tail, **two}, budget),
            Arm("bicubic", {"bicubic": 1 - tail, **two}, budget),
            Arm("averaged, rate over time", {"averaged": 1 - tail, **two}, budget, over_time=True),
            Arm("bicubic, rate over time", {"bicubic": 1 - tail, **two}, budget, over_time=True),
            Arm(
                "bicubic from r = 8/3, rate over time",
                {"bicubic 8/3": 0.3 * (1 - tail), "bicubic": 0.7 * (1 - tail), **two},
                budget,
                over_time=True,
            ),
            Arm("Composer's ramp, rate over time", ramp, budget, over_time=True),
            Arm("resized, ladder", {"resized": 0.4, "resized 4/3": 0.2, **two}, budget),
            Arm("resized, drawn", {"resized": 0.4, "resized 4/3": 0.2, **two}, budget, mixed=True),
            Arm("resized, shared norms", {"resized, shared norms": 1 - tail, **two}, budget),
            Arm("resized, cover", {"resized, cover": 1 - tail, **two}, budget),
        ]
    return found
