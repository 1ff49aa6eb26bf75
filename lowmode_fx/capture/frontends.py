"""Front ends, in the order in which they are tried.

A front end traces a model's ``forward`` and gives its graph over the model's own parameters. A new one is a module like
``fx_frontend`` and a line in ``FRONT_ENDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, get_args

from torch import Tensor, fx, nn

from lowmode_fx.capture.export_frontend import ExportFrontEnd
from lowmode_fx.capture.fx_frontend import FxFrontEnd
from lowmode_fx.capture.inputs import ModelInputs
from lowmode_fx.capture.live_frontend import LiveFrontEnd
from lowmode_fx.utils.validation import as_choice

FrontEndName = Literal["auto", "live", "fx", "export"]


class FrontEnd(Protocol):
    """One way to get a model's graph.

    ``any_size``: its graphs hold for images of any size; otherwise only for the example's.
    """

    name: str
    any_size: bool

    def attempts(
        self, model: nn.Module, inputs: ModelInputs, example: Sequence[Tensor], leaf_modules: Sequence[type[nn.Module]]
    ) -> Iterator[Callable[[], fx.Graph]]:
        """Ways to trace ``model``, the best first, each a function that returns a graph or raises an error.

        The graph takes the tensors of ``inputs`` in the order of its leaves. ``example``: values for them.
        ``leaf_modules``: classes that are not traced into.
        """
        ...


FRONT_ENDS: tuple[FrontEnd, ...] = (FxFrontEnd(), ExportFrontEnd(), LiveFrontEnd())


def front_ends(name: FrontEndName) -> list[FrontEnd]:
    """The front ends to try for ``"auto"`` or for one name. Raises ``ValueError`` for another name."""
    as_choice("front_end", name, get_args(FrontEndName))
    return [each for each in FRONT_ENDS if name in ("auto", each.name)]
