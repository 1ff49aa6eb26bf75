"""Misspelt keywords of what the package exports."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest
import torch
from tiny import Tiny

import lowmode_fx
from lowmode_fx import LadderSchedule, LowModeConfig, LowModeModel, NoEffectWarning, build_ladder, build_pair
from lowmode_fx.utils.keywords import keywords_told

#: Called in each step, and called by name in graphs, where a frame more would be one too many.
BARE = {"downsample"}
#: What functions return; nobody calls these.
RESULTS = {
    *("Captured", "FlopReport", "GradientAgreement", "Ladder", "LayerFlops", "ModePair", "PairReport", "Rung"),
    "Tuning",
}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (LowModeConfig, {"pool_conv": "pool_convs, keep_convs, drop_maxpools (of 16)"}),
        (LadderSchedule, {"share": "shares, seed (of 7)"}),
        (LowModeModel, {"compil": "compile, compile_options, downsample_on (of 8)"}),
        (build_pair, {"frontend": "front_end, model (of 7)"}),
        (build_ladder, {"image": "images, model, configs (of 7)"}),
        (lowmode_fx.tune, {"epoch": "epochs, steps_per_epoch, seconds, autocast (of 20)"}),
    ],
)
def test_an_unknown_keyword_has_near_matches(call: Any, told: dict[str, str]) -> None:
    ((name, near),) = told.items()
    with pytest.raises(TypeError) as error:
        call(**{name: 1})
    assert str(error.value) == f"{call.__name__} has no argument {name!r}; near matches: {near}"


def takes_options(public: Any) -> bool:
    """Whether a user calls it, and its keywords are its own."""
    if isinstance(public, type) and issubclass(public, Exception):
        return False
    try:
        parameters = inspect.signature(public).parameters.values()
    except (TypeError, ValueError):
        return False
    optional = [each for each in parameters if each.default is not inspect.Parameter.empty]
    return bool(optional) and not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)


@pytest.mark.parametrize("name", sorted(set(lowmode_fx.__all__) - BARE - RESULTS))
def test_every_public_name_with_options_tells_them(name: str) -> None:
    public = getattr(lowmode_fx, name)
    if takes_options(public):
        with pytest.raises(TypeError, match=f"^{name} has no argument 'unknwon'; near matches: "):
            public(unknwon=1)


def test_what_is_decorated_stays_what_it_was() -> None:
    def function(a: int, *, b: int = 2) -> int:
        """Return their sum."""
        return a + b

    told = keywords_told(function)
    assert told(1) == 3 and told(a=1, b=1) == 2
    assert inspect.signature(told) == inspect.signature(function) and told.__doc__ == "Return their sum."
    assert pickle.loads(pickle.dumps(build_pair)) is build_pair
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        told(b=1)


def test_warnings_point_to_the_callers_line() -> None:
    images, kept = torch.zeros(2, 3, 16, 16), LowModeConfig(keep_convs=["*"])
    with pytest.warns(NoEffectWarning) as effect:
        pair = build_pair(Tiny(), images, kept)
    with pytest.warns(UserWarning, match="not in the ladder's order") as order:
        build_ladder(Tiny(), images, [LowModeConfig(ratio=4 / 3, kernel_ratio=1), LowModeConfig(kernel_ratio=1)])
    with pytest.warns(UserWarning, match="hold_epochs") as held:
        schedule = LadderSchedule((1, 1), hold_epochs=1)
        lowmode_fx.BernoulliSchedule(0.5, hold_epochs=1)
    net = LowModeModel(pair, schedule, compile=False)
    with pytest.warns(UserWarning, match="LadderSchedule has 2") as rate:
        lowmode_fx.CostCosineLR(torch.optim.SGD(net.parameters(), lr=0.1), net, 5, steps_per_epoch=3)
    caught = [*effect, *order, *held, *rate]
    assert len(caught) == 5 and {each.filename for each in caught} == {__file__}
