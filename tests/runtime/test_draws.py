"""The counter-based generator: the published sequence, literal draws, and their statistics."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowmode_fx.runtime.schedules.draws import GOLDEN_GAMMA, mix64, uniform_draw

DRAWS = 20_000
# With DRAWS independent draws, a correlation is normal with this standard deviation; 4.5 of them are 7 in a million.
TOLERANCE = 4.5 / math.sqrt(DRAWS)


def test_mixer_gives_the_published_splitmix64_sequence() -> None:
    words = [mix64(GOLDEN_GAMMA * count % 2**64) for count in (1, 2, 3)]
    assert words == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize(
    ("seed", "step", "value"),
    [
        (0, 0, 0.28176129772258496),
        (0, 1, 0.6524484863740322),
        (0, 2, 0.7012121095215252),
        (1, 0, 0.8628561488610587),
        (1, 1, 0.36818951565166946),
        (2**64 - 1, 10**12, 0.27314664458938587),
    ],
)
def test_draws_are_these_everywhere(seed: int, step: int, value: float) -> None:
    assert uniform_draw(seed, step) == value


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**70))
def test_draws_are_uniform_numbers(seed: int, step: int) -> None:
    draw = uniform_draw(seed, step)
    assert 0.0 <= draw < 1.0
    assert (draw * 2**53).is_integer()


@pytest.mark.parametrize("seed", [0, 1, 2, 12345, 2**32, 2**64 - 1])
def test_draws_fill_the_unit_interval_evenly(seed: int) -> None:
    bins = [0] * 64
    for step in range(DRAWS):
        bins[int(64 * uniform_draw(seed, step))] += 1
    expected = DRAWS / 64
    chi_square = sum((count - expected) ** 2 / expected for count in bins)
    # 63 degrees of freedom: mean 63, standard deviation 11.2. A value too low is as suspect as one too high.
    assert 28 < chi_square < 120


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("lag", [1, 2, 3, 8, 97, 391])
def test_steps_are_uncorrelated(seed: int, lag: int) -> None:
    draws = [uniform_draw(seed, step) for step in range(DRAWS + lag)]
    assert abs(statistics.correlation(draws[:DRAWS], draws[lag:])) < TOLERANCE


@pytest.mark.parametrize("seed", [0, 1, 1000])
@pytest.mark.parametrize("other", [1, 2, 256])
@pytest.mark.parametrize("lag", [-2, -1, 0, 1, 2])
def test_neighbouring_seeds_are_uncorrelated(seed: int, other: int, lag: int) -> None:
    draws = [uniform_draw(seed, step) for step in range(2, DRAWS + 2)]
    others = [uniform_draw(seed + other, step + lag) for step in range(2, DRAWS + 2)]
    assert abs(statistics.correlation(draws, others)) < TOLERANCE
