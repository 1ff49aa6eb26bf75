"""A model's name is known, or refused with near matches, before timm and torchvision are imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torchvision
from timm.models import get_deprecated_models
from timm.optim import list_optimizers

from lowmode_fx.cli.model_names import check_model_name
from lowmode_fx.train.optimizer_names import check_optimizer_name
from lowmode_fx.utils import registries
from lowmode_fx.utils.registries import names_in
from passes.errors import OptionError


def test_every_name_that_can_be_built_passes() -> None:
    for name in (*timm.list_models(), *timm.list_models(pretrained=True), *get_deprecated_models()):
        check_model_name(name)
    for name in torchvision.models.list_models():
        check_model_name(f"torchvision:{name}")
    check_model_name("no.such:thing")  # a module is asked itself


def test_a_typo_is_reported_without_importing_torch() -> None:
    code = (
        "import sys; from lowmode_fx.cli.model_names import check_model_name\n"
        "for name in ('resnet81', 'torchvision:resnet81', 'resnet81.a1_in1k'):\n"
        "    try: check_model_name(name)\n"
        "    except ValueError as error: print(error)\n"
        "print(*({'torch', 'timm', 'torchvision'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, third, imported = done.stdout.split("\n")[:4]
    assert first.startswith("model 'resnet81': timm has no such model; near matches: resnet18, ")
    assert second.startswith("model 'resnet81': torchvision has no such model; near matches: resnet18, ")
    assert third.startswith("model 'resnet81.a1_in1k': timm has no such model; near matches: resnet18")
    assert imported == ""


def test_a_package_that_is_laid_out_otherwise_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    names_in.cache_clear()
    monkeypatch.setattr(registries, "_text", lambda package, folder: "@register_model\ndef resnet18(\nname='sgd'\n")
    check_model_name("resnet81")
    check_optimizer_name("adamv")
    names_in.cache_clear()


def test_optimizers_likewise() -> None:
    for name in list_optimizers():
        check_optimizer_name(name)
    with pytest.raises(OptionError, match="optimizer='adamv' is unknown; give sgd or one of timm's; near matches"):
        check_optimizer_name("adamv")
