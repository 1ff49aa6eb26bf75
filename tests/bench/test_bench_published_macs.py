"""Figures beside published ones: what the committed file says, and that it is what is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import published_macs
from bench.published_macs import NETWORKS, SMALL, measure, page, table

RESULTS = Path(published_macs.__file__).parent / "results"
ROWS = json.loads((RESULTS / "published_macs.json").read_text())["rows"]


def test_the_page_is_what_was_measured() -> None:
    assert len(NETWORKS) == 25 and list(ROWS) == [network.name for network in NETWORKS]
    assert (RESULTS / "published_macs.md").read_text() == page(ROWS)


def test_every_figure_is_torchs_own_count() -> None:
    assert {name: row["macs"] for name, row in ROWS.items()} == {
        name: row["flop_counter_macs"] for name, row in ROWS.items()
    }


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_figure_is_the_published_one_or_says_why_not(network: published_macs.Network) -> None:
    """Two per cent from every published figure; without a note, torchvision's to its last digit and the paper's."""
    row = ROWS[network.name]
    published = [row["torchvision"], network.paper]
    far = [each for each in published if each and abs(row["macs"] / 1e9 - each) > 0.02 * each]
    assert not far or network.note
    assert row["torchvision"] is None or network.note or f"{row['macs'] / 1e9:.3f}" == f"{row['torchvision']:.3f}"
    assert row["total_macs"] >= row["macs"]


def test_what_is_counted_now_is_what_the_file_says() -> None:
    name = SMALL[0]
    (network,) = (each for each in NETWORKS if each.name == name)
    assert measure(network) == ROWS[name]
    assert f"| {name} | 224 | 0.349 | 0.349 | 0.349 |" in table({name: ROWS[name]})
