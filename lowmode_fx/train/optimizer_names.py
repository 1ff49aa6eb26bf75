"""Names of optimizers, known before torch and timm are imported."""

from __future__ import annotations

from collections.abc import Sequence

from lowmode_fx.utils.registries import names_in
from passes.errors import OptionError
from passes.wording import near_matches_hint

#: Known to timm, and of no use here: a second backward pass, or a closure, is theirs alone.
OTHER_LOOPS = ("adahessian",)
_REGISTERED = r"\bname=['\"](\w+)['\"]"
#: Fewer, and timm keeps them in another way than is read here: it is asked itself.
_FEWEST = 50


def check_optimizer_name(name: str) -> None:
    """Raises ``OptionError`` for a name that timm's files don't hold; one that passes may still be none of its own."""
    known, spelled = names_in("timm", "optim", _REGISTERED)
    if name != "sgd" and len(known) >= _FEWEST and name not in spelled:
        raise unknown_optimizer(name, known)


def unknown_optimizer(name: str, known: Sequence[str]) -> OptionError:
    """The error for a name that is none of the ``known`` ones, with near matches."""
    hint = f"give sgd or one of timm's; {near_matches_hint(name, [each for each in known if each not in OTHER_LOOPS])}"
    return OptionError("optimizer", name, "is unknown", hint)
