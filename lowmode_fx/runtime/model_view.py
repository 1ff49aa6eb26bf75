"""``ModelView``: a module that presents another module's registries, attributes and modes as its own."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lowmode_fx.runtime.load_hints import loading_problem
from lowmode_fx.utils.validation import wrong_type
from passes.binding import share_registries

Hook = Callable[..., Any]


class ModelView(nn.Module):
    """Holds what ``model`` holds, under the same names; every attribute that it does not define is the model's.

    Subclasses list their own public attributes in ``OWN``; attributes that start with an underscore are their own too.
    All other attributes are set on the model; ``forward`` is set on the view, for libraries that wrap it. The class of
    a view has the signature of the model's ``forward``, for libraries that inspect it.
    """

    OWN: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.__class__ = _signed(type(self), type(model))  # type: ignore[arg-type]
        self.__dict__["_viewed"] = model  # not a child: the model's children are this module's
        share_registries(self, model)
        # A parent runs these when it loads its children.
        self.__dict__[_LOAD_HOOKS] = model.__dict__[_LOAD_HOOKS]

    @property
    def training(self) -> bool:
        """Whether the model is in train mode."""
        model: nn.Module | None = self.__dict__.get("_viewed")
        return True if model is None else model.training

    @training.setter
    def training(self, mode: bool) -> None:
        if "_viewed" in self.__dict__:
            self._viewed.training = mode

    def __getattr__(self, name: str) -> Any:
        viewed = self.__dict__.get("_viewed")
        if viewed is None or name in self.OWN or name == "_viewed":
            return super().__getattr__(name)
        return getattr(viewed, name)

    def __setattr__(self, name: str, value: Any) -> None:
        is_own = name.startswith("_") or name in self.OWN or name in ("training", "forward")
        if is_own or "_viewed" not in self.__dict__:
            object.__setattr__(self, name, value)
        else:
            setattr(self._viewed, name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__:
            object.__delattr__(self, name)
        else:
            delattr(self._viewed, name)

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode as the model itself does, which may keep modules frozen."""
        self._viewed.train(mode)
        return self

    def register_forward_hook(self, hook: Hook, **options: Any) -> RemovableHandle:
        """Register the hook on the model itself, as a user's own hooks are."""
        return self._register("register_forward_hook", hook, options)

    def register_forward_pre_hook(self, hook: Hook, **options: Any) -> RemovableHandle:
        """Register the hook on the model itself, as a user's own hooks are."""
        return self._register("register_forward_pre_hook", hook, options)

    def register_full_backward_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Register the hook on the model itself, as a user's own hooks are."""
        return self._register("register_full_backward_hook", hook, {"prepend": prepend})

    def register_full_backward_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Register the hook on the model itself, as a user's own hooks are."""
        return self._register("register_full_backward_pre_hook", hook, {"prepend": prepend})

    def register_backward_hook(self, hook: Hook) -> RemovableHandle:
        """Register the hook on the model itself, as a user's own hooks are."""
        return self._register("register_backward_hook", hook, {})

    def _register(self, method: str, hook: Hook, options: dict[str, Any]) -> RemovableHandle:
        # Libraries that shard or replicate the net hook the net itself, not the model.
        torchs = str(getattr(hook, "__module__", "")).startswith("torch.")
        owner = super() if torchs else self._viewed
        handle: RemovableHandle = getattr(owner, method)(hook, **options)
        return handle

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model's own state dict: its keys, its extra state, its hooks."""
        return self._viewed.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict of the model, as the model itself does.

        Raises ``RuntimeError`` that says in one line how a state dict differs from the model's, ``TypeError`` for
        anything else.
        """
        if not isinstance(state_dict, Mapping):
            raise wrong_type("state_dict", state_dict, "a state dict, as model.state_dict() or torch.load(path) is")
        try:
            return self._viewed.load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            problem = loading_problem(self._viewed, state_dict) if str(error).startswith(_NOT_LOADED) else ""
            if not problem:
                raise
            raise RuntimeError(problem) from error

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # A parent calls this for each of its children.
        self._viewed._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._viewed._apply(fn, recurse)
        return self

    def _copy_additions(self, copied: ModelView, memo: dict[int, Any]) -> None:
        """Copy to ``copied`` what others have added to this view: hooks, a wrapped ``forward``."""
        for name, value in self.__dict__.items():
            if name not in copied.__dict__ or (name.endswith("_hooks") and name != _LOAD_HOOKS):
                copied.__dict__[name] = copy.deepcopy(value, memo)


_LOAD_HOOKS = "_load_state_dict_post_hooks"
#: How torch's error begins if keys or shapes differ.
_NOT_LOADED = "Error(s) in loading state_dict"


#: Special methods of containers, which Python looks up on the class.
_CONTAINER = ("__getitem__", "__len__", "__iter__", "__contains__")


@functools.cache
def _signed(kind: type[ModelView], model: type[nn.Module]) -> type[ModelView]:
    """``kind`` with the signature of ``model``'s forward, and its special methods if it is a container."""
    own = kind.forward

    @functools.wraps(model.forward)
    def signed(self: ModelView, *args: Any, **kwargs: Any) -> Any:
        return own(self, *args, **kwargs)

    names = {
        "forward": signed,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    names |= {name: _forwarding(name) for name in _CONTAINER if hasattr(model, name)}
    return type(kind.__name__, (kind,), names)


def _forwarding(name: str) -> Callable[..., Any]:
    def method(self: ModelView, *args: Any) -> Any:
        return getattr(self._viewed, name)(*args)

    return method
