"""The report as a page: what it says, that it needs nothing else, and that its table sorts in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import OrderedDict
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

from lowmode_fx import FlopReport, Ladder, LayerFlops, LowModeConfig, build_ladder, build_pair, count_flops
from lowmode_fx.cli.report import render_report
from lowmode_fx.cli.report_page import large, percent, report_page
from lowmode_fx.counting.step_cost import step_cost

CHROMIUM = shutil.which("chromium")


class Page(HTMLParser):
    """Tables as lists of rows of texts, the texts of everything, and the tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "use", "path", "image"):
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open) and data.strip():
            self.words.append(" ".join(data.split()))
        under = any(attrs.get("class") == "under" for tag, attrs in self.tags[-1:])
        if {"td", "th"} & set(self._open) and not under:
            self.tables[-1][-1][-1] += data.strip()


def ladder() -> Ladder:
    layers = OrderedDict(
        stem=nn.Conv2d(3, 8, 7, padding=3),
        norm=nn.BatchNorm2d(8),
        body=nn.Conv2d(8, 8, 3, padding=1),
        last=nn.Conv2d(8, 2, 5),
    )
    configs = [
        LowModeConfig(ratio=2, kernel_ratio=1),
        LowModeConfig(ratio=2, kernel_transform="linear", rounding="cover"),
    ]
    return build_ladder(nn.Sequential(layers), torch.zeros(2, 3, 16, 16), configs)


@pytest.fixture(scope="module")
def text() -> str:
    modes = ladder()
    flops = count_flops(modes)
    return report_page("nets:<b>&co", modes, flops, step_cost(modes, flops, 32))


def test_the_page_needs_nothing_else(text: str) -> None:
    """No address but the names of namespaces, nothing that is fetched; a name is no markup."""
    addresses = set(re.findall(r"https?://[^\"' )<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("link", "img", "iframe", "b")]
    assert not [attrs for tag, attrs in page.tags if tag == "script" and "src" in attrs]
    references = [attrs["xlink:href"] for _, attrs in page.tags if "xlink:href" in attrs]
    assert all(each and each.startswith(("#", "data:")) for each in references)
    assert "nets:<b>&co" in page.words and text.count("<!doctype html>") == 1


def test_both_themes_and_a_phone_are_thought_of(text: str) -> None:
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    assert "@media (max-width:" in text


def test_the_totals_stand_first(text: str) -> None:
    modes = ladder()
    flops = count_flops(modes)
    words = " ".join(Page(text).words)
    for mode in ("full", "r2", "r2-kept"):
        assert f"{mode}-mode" in words and large(flops.macs[mode]) in words
        assert f"{large(flops.total_macs[mode])} with norms and the rest" in words
    assert f"{percent(flops.ratios['r2'])} of full" in words
    assert f"{large(flops.weight_macs['r2'])} on weights, once a step" in words


def test_the_tables_hold_the_rows_of_the_report(text: str) -> None:
    modes = ladder()
    flops = count_flops(modes)
    step, layers, weights = Page(text).tables
    body, total, everything = layers[1:-2], layers[-2], layers[-1]
    assert layers[0][:7] == ["layer", "kernel", "full", "r2", "r2-kept", "r2 / full", "r2-kept / full"]
    assert [row[0] for row in body] == [layer.name for layer in flops.layers] == [
        "stem", "body", "last", "all batch_norm"
    ]  # fmt: skip
    assert body[2][1:3] == ["5×5 → 3×3 → 5×5", f"{flops.layers[2].full_macs / 1e6:,.2f}"]
    assert body[0][1] == "7×7"
    assert [total[0], total[2]] == ["total", f"{flops.full_macs / 1e6:,.2f}"]
    assert [everything[0], everything[2]] == ["with norms and the rest", f"{flops.total_macs['full'] / 1e6:,.2f}"]
    assert len(weights) == 2 and weights[1][0] == "mm"
    assert [row[0].split(",")[0] for row in step[1:]] == ["forward", "forward and backward"]
    assert step[1][1] == large(flops.step_macs(32)["full"])


def test_bars_are_shares_of_the_longest(text: str) -> None:
    flops = count_flops(ladder())
    most = max(count for layer in flops.layers for count in layer.macs.values())
    table = text[text.index('<table id="layers">') :]
    found = re.findall(r'<i class="(full|low n[01])" style="width:([0-9.]+)%"', table)
    looks = {"full": "full", "r2": "low n0", "r2-kept": "low n1"}
    assert found == [
        (look, f"{100 * layer.macs[mode] / most:.2f}") for layer in flops.layers for mode, look in looks.items()
    ]
    assert max(float(width) for _, width in found) == 100


def test_the_picture_is_the_cheapest_mode_beside_full(text: str) -> None:
    assert text.count("<svg") == 1 and "Full-mode beside r2-mode" in " ".join(Page(text).words)
    names = set(re.findall(r'<g id="((?:full|low):[^"]+)"', text))
    assert {"full:conv2d_2", "low:conv2d_2", "low:conv2d_2:transform"} <= names


def test_a_page_without_a_step_and_without_work_on_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    pair = build_pair(model, torch.zeros(2, 3, 16, 16))
    found = render_report("plain", pair, count_flops(pair), "html")
    assert len(Page(found).tables) == 1 and "once a step" not in found
    empty = FlopReport(("low", "full"), (), {})
    assert "0 macs" in " ".join(Page(report_page("plain", pair, empty)).words)


def test_figures_are_short() -> None:
    assert [large(count) for count in (0, 999, 4_089_184_256, 643_260_000, 1.5e12)] == [
        "0", "999", "4.09 G", "643 M", "1.50 T"
    ]  # fmt: skip
    assert percent(0.1573) == "15.7 %" and percent(float("nan")) == "–"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to look at the page with")
@pytest.mark.parametrize(
    ("clicks", "expected"),
    [
        ([], ["b10", "b9", "a"]),
        ([0], ["a", "b9", "b10"]),  # names by their numbers
        ([0, 0], ["b10", "b9", "a"]),
        ([2], ["a", "b10", "b9"]),  # the largest first
        ([2, 2], ["b9", "b10", "a"]),
    ],
)
def test_a_click_sorts(clicks: list[int], expected: list[str], tmp_path: Path) -> None:
    macs = {"b10": 2_000_000, "b9": 1_000_000, "a": 11_000_000}
    flops = FlopReport(
        ("low", "full"),
        tuple(
            LayerFlops(name, {"low": "1×1", "full": "3×3"}, {"low": 1, "full": count}) for name, count in macs.items()
        ),
        {},
    )
    pair = build_pair(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), torch.zeros(2, 3, 16, 16))
    presses = "".join(f"heads[{place}].querySelector('button').click();" for place in clicks)
    page = report_page("sorted", pair, flops).replace("</script>", f"{presses}</script>")
    (tmp_path / "page.html").write_text(page)
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    run = subprocess.run(
        [*command, "--dump-dom", f"file://{tmp_path / 'page.html'}"], capture_output=True, text=True, timeout=120
    )
    rows = Page(run.stdout).tables[0]
    assert [row[0] for row in rows[1:4]] == expected
