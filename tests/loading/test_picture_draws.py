"""What is drawn for an epoch: even, independent, and the same on every machine."""

from __future__ import annotations

import pytest
import torch

from lowmode_fx.loading.draws import crop_draws, epoch_order

COUNT = 40_000


def draws(seed: int = 0, epoch: int = 0, shift: int = 4) -> torch.Tensor:
    """Rows, columns and flips of the first images, int64 (3, COUNT)."""
    rows, columns, flips = crop_draws(torch.arange(COUNT), seed, epoch, shift)
    return torch.stack([rows, columns, flips.long()])


def test_draws_do_not_change() -> None:
    """Literally: who changes them changes every run that goes on from a checkpoint, and ``DRAWS`` with them."""
    rows, columns, flips = crop_draws(torch.tensor([0, 1, 2, 3, 1_000_000]), seed=7, epoch=3, shift=4)
    assert rows.tolist() == [6, 2, 6, 0, 2] and columns.tolist() == [6, 1, 7, 4, 7]
    assert flips.tolist() == [True, False, False, True, True]


def test_an_images_draws_depend_on_no_other_image() -> None:
    some = torch.tensor([5, 39_999, 0, 5])
    together = draws(seed=2, epoch=1)
    alone = torch.stack([values.long() for values in crop_draws(some, 2, 1, 4)])
    assert torch.equal(alone, together[:, some])


@pytest.mark.parametrize("shift", [1, 4, 28])
def test_corners_and_flips_are_even_and_independent(shift: int) -> None:
    """No corner is likelier than another, by four standard deviations; nor is any of them where the flip is set."""
    rows, columns, flips = draws(seed=1, shift=shift)
    span = 2 * shift + 1
    for values, size in ((rows, span), (columns, span), (flips, 2), (rows * 2 + flips, span * 2)):
        counts = torch.bincount(values, minlength=size)
        assert len(counts) == size
        expected, deviation = COUNT / size, (COUNT / size * (1 - 1 / size)) ** 0.5
        assert (counts - expected).abs().max() < 4.5 * deviation
    table = torch.stack([rows, columns, flips]).double()
    assert (torch.corrcoef(table) - torch.eye(3)).abs().max() < 4.5 / COUNT**0.5
    assert abs(torch.corrcoef(torch.stack([table[0, 1:], table[0, :-1]]))[0, 1]) < 4.5 / COUNT**0.5


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"seed": 2**64 - 1}])
def test_seeds_and_epochs_have_draws_of_their_own(other: dict[str, int]) -> None:
    pair = torch.cat([draws(), draws(**other)]).double()
    assert torch.corrcoef(pair)[:3, 3:].abs().max() < 4.5 / COUNT**0.5


def test_a_seed_is_no_epoch() -> None:
    assert not torch.equal(draws(seed=0, epoch=1), draws(seed=1, epoch=0))


def test_order_is_a_permutation_of_seed_and_epoch_alone() -> None:
    order = epoch_order(50, seed=3, epoch=2)
    assert sorted(order.tolist()) == list(range(50))
    torch.manual_seed(99)
    assert torch.equal(order, epoch_order(50, 3, 2))
    assert not torch.equal(order, epoch_order(50, 3, 1)) and not torch.equal(order, epoch_order(50, 2, 2))
