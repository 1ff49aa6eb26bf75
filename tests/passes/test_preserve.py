"""Nothing is left behind: every habit of a forward, undone after it, after an error, where undoing fails in part."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from habits import HABITS, Part
from torch import Tensor, nn

from passes.preserve import (
    ForwardAttributes,
    copy_apart,
    preserve_attributes,
    preserve_generators,
    preserve_modes,
    preserve_state,
    train_mode,
    undo_writes,
)
from passes.preserve.holdings import copy_iterator
from passes.preserve.restorers import restoring

IMAGES = torch.ones(2, 3, 4, 4)


@pytest.mark.parametrize("name", HABITS)
def test_what_a_forward_does_is_undone(name: str) -> None:
    habit, part = HABITS[name], Part(HABITS[name])
    before = habit.look(part)
    with preserve_state(part, parameters=True):
        part(IMAGES)
        assert habit.look(part) != before, "the habit shows"
        part(IMAGES)
    assert habit.look(part) == before
    with pytest.raises(RuntimeError, match="inside"), preserve_state(part, parameters=True):
        part(IMAGES)
        raise RuntimeError("inside")
    assert habit.look(part) == before
    part(IMAGES)
    assert habit.look(part) != before, "the habit goes on"


def test_values_that_are_not_asked_for_stay_changed() -> None:
    for name, asked in {"weight": {"parameters": False}, "in place": {"buffers": False}}.items():
        part = Part(HABITS[name])
        before = HABITS[name].look(part)
        with preserve_state(part, **asked):
            part(IMAGES)
        assert HABITS[name].look(part) != before


def test_gradients_are_put_aside() -> None:
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    held = model.weight.grad
    assert held is not None
    before = held.clone()
    with preserve_state(model, gradients=True):
        assert model.weight.grad is None
        model(torch.full((1, 2), 7.0)).sum().backward()
    assert model.weight.grad is held and torch.equal(held, before)


def test_a_backward_pass_that_waits_finds_its_weights() -> None:
    model = nn.Linear(2, 2)
    images = torch.ones(1, 2, requires_grad=True)
    loss = model(images).square().sum()
    with preserve_state(model, parameters=True):
        pass
    loss.backward()
    assert images.grad is not None


def test_all_that_can_be_is_put_back_where_something_cannot() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.draws, self.log, self.mean = Broken(0), [1], torch.zeros(2)

    class Broken(random.Random):
        def setstate(self, state: object) -> None:
            raise OSError("no way back")

    model = Stubborn()
    state = torch.get_rng_state()
    with pytest.raises(OSError, match="no way back"), preserve_state(model):
        model.log.append(2)
        model.mean.add_(1)
        torch.rand(1)
    assert model.log == [1] and not model.mean.any() and torch.equal(torch.get_rng_state(), state)


def test_the_first_error_of_several_is_reported_and_the_rest_still_run() -> None:
    done = []

    def fail(word: str) -> None:
        raise ValueError(word)

    with (
        pytest.raises(ValueError, match="first"),
        restoring([lambda: fail("first"), lambda: done.append(1), lambda: fail("second"), lambda: done.append(2)]),
    ):
        pass
    assert done == [1, 2]


@pytest.mark.parametrize("name", ["random", "numpy", "torch", "seed", *(name for name in HABITS if "own" in name)])
def test_generators_alone_are_taken_back(name: str) -> None:
    part = Part(HABITS[name])
    before = HABITS[name].look(part)
    with preserve_generators(part):
        part(IMAGES)
    assert HABITS[name].look(part) == before


def test_attributes_alone_let_values_through() -> None:
    part = Part(HABITS["in place"])
    with preserve_attributes(part):
        part(IMAGES)
        part.extra = 1
    assert part.mean.tolist() == [1, 1, 1] and not hasattr(part, "extra")


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_a_scripted_module_comes_back_values_and_mode() -> None:
    scripted = torch.jit.script(nn.BatchNorm1d(3))
    with preserve_attributes(nn.Sequential(scripted)):
        scripted(torch.ones(2, 3))
        scripted.eval()
    assert int(scripted.num_batches_tracked) == 0 and not scripted.running_mean.any() and scripted.training


def test_modes() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout()))
    model[1][0].eval()
    with preserve_modes(model):
        model.eval()
    assert [module.training for module in model.modules()] == [True, True, True, False]
    with train_mode(model):  # in train mode already: the frozen part stays frozen
        assert [module.training for module in model.modules()] == [True, True, True, False]
    model.eval()
    model[0].train()
    with train_mode(model):
        assert all(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [False, True, False, False]


class Merging(nn.Module):
    """An adapter that is part of the weight in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.adapter, self.merged = nn.Parameter(torch.rand(3)), nn.Parameter(torch.rand(3)), False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if self.merged is mode:
            self.weight.data += -self.adapter if mode else self.adapter
            self.adapter.requires_grad_(mode)
            self.merged = not mode
        return self


def test_what_a_models_own_train_writes_is_undone() -> None:
    model = Merging().eval()
    before = model.weight.detach().clone()
    with train_mode(model):
        assert not model.merged and not torch.equal(model.weight, before)
    assert model.merged and torch.equal(model.weight, before) and not model.adapter.requires_grad


def test_writes_are_undone_and_nothing_else_is_copied() -> None:
    weight, norm, plain = nn.Parameter(torch.ones(3)), nn.BatchNorm1d(3), torch.arange(4.0)
    with undo_writes():
        weight.data[1:].mul_(5)
        torch.add(plain[:2], 1, out=plain[:2])
        torch._foreach_add_([plain], 1)
        norm(torch.rand(2, 3))
        fresh = plain + 1
    assert weight.tolist() == [1, 1, 1] and plain.tolist() == [0, 1, 2, 3] and fresh.tolist() == [3, 4, 4, 5]
    assert int(norm.num_batches_tracked) == 0 and not norm.running_mean.any() and bool((norm.running_var == 1).all())


def test_lazy_and_meta_modules_are_let_be() -> None:
    for model in (nn.Sequential(nn.LazyLinear(3)), nn.BatchNorm1d(3, device="meta")):
        with preserve_state(model, parameters=True, gradients=True):
            model.eval()
        assert model.training


ITERATORS = {
    "list": lambda: iter([1, 2, 3, 4]),
    "range": lambda: iter(range(9)),
    "dict": lambda: iter({1: 2, 3: 4, 5: 6}),
    "cycle": lambda: itertools.cycle([1, 2, 3]),
    "count": lambda: itertools.count(3, 2),
    "chain": lambda: itertools.chain([1, 2], iter([3, 4])),
    "islice": lambda: itertools.islice(itertools.count(), 2, 9, 3),
    "zip": lambda: zip(itertools.count(), "abcdef", strict=False),
    "map": lambda: map(abs, itertools.cycle([-1, -2])),
    "enumerate": lambda: enumerate("abcdef"),
    "reversed": lambda: reversed([1, 2, 3, 4]),
    "accumulate": lambda: itertools.accumulate([1, 2, 3, 4]),
    "product": lambda: itertools.product("ab", "cd"),
}


@pytest.mark.parametrize("name", ITERATORS)
@pytest.mark.parametrize("taken", range(3))
def test_a_copied_iterator_goes_on_from_there_and_moves_nothing(name: str, taken: int) -> None:
    iterator, reference = ITERATORS[name](), ITERATORS[name]()
    for _ in range(taken):
        next(iterator), next(reference)
    copied = list(itertools.islice(copy_iterator(iterator), 7))
    expected = list(itertools.islice(reference, 7))
    assert copied == expected
    assert list(itertools.islice(iterator, 7)) == expected


def test_an_iterator_that_hides_where_it_stands_is_no_copy() -> None:
    for hiding in ((each for each in [1]), itertools.cycle(each for each in [1])):
        with pytest.raises(TypeError):
            copy_iterator(hiding)


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.log = nn.Linear(2, 2), [0]
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.output = self.fc(x)
        self.log.append(1)
        self.mean.add_(1)
        return self.output


def test_a_copy_shares_nothing_and_takes_what_a_forward_left() -> None:
    model = Remembering()
    model(torch.ones(1, 2))
    copied = copy_apart([model], model)[0]
    copied(torch.zeros(1, 2))
    with torch.no_grad():
        copied.fc.weight.zero_()
    assert model.log == [0, 1] and model.mean.tolist() == [1, 1] and model.fc.weight.any()
    assert torch.equal(copy_apart(model, model).output, model.output)
    on_meta = copy_apart(model, model, meta=True)
    assert all(value.is_meta for value in (*on_meta.parameters(), *on_meta.buffers()))
    assert isinstance(on_meta.fc.weight, nn.Parameter) and on_meta.fc.weight.requires_grad


def test_attributes_that_trade_names_by_being_deleted_come_back() -> None:
    class Model(nn.Module):
        pass

    model = Model()
    model.one, model.other = one, other = object(), object()
    with ForwardAttributes().kept([model]):
        del model.one, model.other
        model.other, model.one = one, other
    assert model.one is one and model.other is other


def test_a_view_that_turns_up_later_is_a_view_of_the_copy() -> None:
    class Model(nn.Module):
        pass

    model, attributes = Model(), ForwardAttributes()
    model.base = base = torch.zeros(4)
    with attributes.kept([model]):
        model.base.add_(1)
    model.part, model.wide = base[1:3], base[:1].expand(3)
    for count in range(3):
        with attributes.kept([model]):
            assert model.part.tolist() == [count] * 2 and model.wide.tolist() == [count] * 3
            model.base.add_(1)
            assert model.part.tolist() == [count + 1] * 2 and model.wide.tolist() == [count + 1] * 3
        assert base.tolist() == [count] * 4
        base.add_(1)
