"""Packages whose names are imported where they are used: the names are all there, and mean what is public."""

from __future__ import annotations

import importlib

import pytest

PACKAGES = ("passes", "lowmode_fx", "lowmode_fx.train")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(module._homes), "names without a home"
    assert set(module._homes) - {"__version__"} <= set(module.__all__), "names that are not public"
    for name in module.__all__:
        assert getattr(module, name) is getattr(importlib.import_module(module._homes[name]), name)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_a_pass_and_its_module_share_a_name() -> None:
    importlib.import_module("passes.drop_maxpools")
    importlib.import_module("lowmode_fx.capture.capture")
    from lowmode_fx import capture
    from passes import drop_maxpools

    assert callable(drop_maxpools) and callable(capture)
