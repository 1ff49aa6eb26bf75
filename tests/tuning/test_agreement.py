"""The agreement of full and low gradients: right numbers, and nothing of the model touched."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, ModePair, build_pair, gradient_agreement


def build(model: nn.Module, **options: object) -> ModePair:
    return build_pair(model, torch.zeros(2, 3, 16, 16).double(), LowModeConfig(**options))  # type: ignore[arg-type]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(8, 3, 16, 16, dtype=torch.float64), torch.randint(0, 4, (8,))


def test_two_equal_graphs_agree_fully(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    with pytest.warns(UserWarning, match="low-mode is the same as full-mode"):
        pair = build(model, downsample_input=False, keep_convs=["3"])
    agreement = gradient_agreement(pair, batch, F.cross_entropy)
    assert agreement.cosine == pytest.approx(1, abs=1e-12)
    assert agreement.norm_ratio == pytest.approx(1, abs=1e-12)
    assert all(layer.cosine == pytest.approx(1) for name, layer in agreement.layers.items() if name != "3.bias")


def test_the_numbers_are_those_of_both_backward_passes(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    model[4] = nn.Identity()
    pair = build(model)
    agreement = gradient_agreement(pair, batch, F.cross_entropy)
    gradients = []
    for graph, images in ((pair.full, batch[0]), (pair.low, pair.downsample(batch[0]))):
        model.zero_grad()
        F.cross_entropy(graph(images), batch[1]).backward()
        gradients.append({name: value.grad.clone() for name, value in model.named_parameters()})
    full, low = (torch.cat([value.flatten() for value in each.values()]) for each in gradients)
    assert agreement.cosine == pytest.approx(float(F.cosine_similarity(full, low, dim=0)), abs=1e-9)
    assert agreement.norm_ratio == pytest.approx(float(low.norm() / full.norm()), abs=1e-9)
    ours, theirs = (each["3.weight"].flatten() for each in gradients)
    assert agreement.layers["3.weight"].cosine == pytest.approx(float(F.cosine_similarity(ours, theirs, dim=0)))


def test_nothing_of_the_model_is_touched(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    pair = build(model)
    model.eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    gradient_agreement(pair, batch, F.cross_entropy)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not model.training
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert all(value.grad is None for name, value in model.named_parameters() if name != "0.weight")


def test_a_layer_without_gradient_has_no_cosine(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    model[7].bias.requires_grad_(False)
    agreement = gradient_agreement(build(model), batch, lambda output, labels: output.sum() * 0)
    assert math.isnan(agreement.cosine)
    assert "7.bias" not in agreement.layers


# Several batches, and the ceiling of noise ---------------------------------------------------------------------------


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    images = [torch.randn(8, 3, 16, 16, dtype=torch.float64, generator=generator) for _ in range(count)]
    return [(each, torch.randint(0, 4, (8,), generator=generator)) for each in images]


def test_several_batches_give_the_mean_and_its_standard_error(model: nn.Module) -> None:
    pair = build(model)
    alone = [gradient_agreement(pair, each, F.cross_entropy) for each in batches(5)]
    together = gradient_agreement(pair, batches(5), F.cross_entropy)
    for name in ("cosine", "norm_ratio", "ceiling"):
        values = torch.tensor([getattr(each, name) for each in alone], dtype=torch.float64)
        assert getattr(together, name) == pytest.approx(float(values.mean()), rel=1e-9)
        assert getattr(together, f"{name}_error") == pytest.approx(float(values.std() / 5**0.5), rel=1e-9)
    assert together.batches == 5 and alone[0].batches == 1
    assert math.isnan(alone[0].cosine_error)
    layer = [each.layers["3.weight"].cosine for each in alone]
    assert together.layers["3.weight"].cosine == pytest.approx(sum(layer) / 5, rel=1e-9)
    assert together.layers["3.weight"].batches == 5


def test_any_iterable_of_batches_and_a_batch_in_a_list(model: nn.Module) -> None:
    pair = build(model)
    expected = gradient_agreement(pair, batches(2), F.cross_entropy)
    assert gradient_agreement(pair, iter(batches(2)), F.cross_entropy).cosine == expected.cosine
    # What torch's default collation makes of a batch: a list of two tensors is one batch, and not two.
    (one,) = batches(1)
    assert gradient_agreement(pair, list(one), F.cross_entropy).batches == 1  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"batch is empty; give \(inputs, targets\), or several of them"):
        gradient_agreement(pair, [], F.cross_entropy)


def test_the_ceiling_is_the_cosine_of_the_halves_of_a_batch(model: nn.Module) -> None:
    model[4] = nn.Identity()
    pair = build(model)
    (images, labels), *_ = batches(1)
    gradients = []
    for part in (slice(4), slice(4, 8)):
        model.zero_grad()
        F.cross_entropy(pair.full(images[part]), labels[part]).backward()
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters()]))
    found = gradient_agreement(pair, (images, labels), F.cross_entropy)
    assert found.ceiling == pytest.approx(float(F.cosine_similarity(*gradients, dim=0)), abs=1e-9)
    # Twice the same half is no noise at all.
    twice = (images[:4].repeat(2, 1, 1, 1), labels[:4].repeat(2))
    assert gradient_agreement(pair, twice, F.cross_entropy).ceiling == pytest.approx(1, abs=1e-9)


def test_a_batch_too_small_to_halve_has_no_ceiling(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    found = gradient_agreement(build(model), (batch[0][:3], batch[1][:3]), F.cross_entropy)
    assert math.isnan(found.ceiling) and not math.isnan(found.cosine)


def test_a_net_is_no_ladder(model: nn.Module) -> None:
    net = LowModeModel(build(model.double()), BernoulliSchedule(0.5), compile=False)
    batch: Any = (torch.zeros(2, 3, 16, 16).double(), torch.zeros(2).long())
    with pytest.raises(TypeError, match=r"^ladder is of type LowModeModel; give its ladder, net\.ladder$"):
        gradient_agreement(net, batch, F.cross_entropy)  # type: ignore[arg-type]
