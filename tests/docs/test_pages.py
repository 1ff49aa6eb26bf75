"""Pages are whole: links lead to files, options, names and pages are all there, the README is short."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import pytest
from pages import PAGES, ROOT, links

import lowmode_fx
import passes
from docs.hooks.command_reference import PAGE, with_reference
from docs.hooks.zoo import table as zoo_table
from lowmode_fx import LowModeConfig, cli

REFERENCE = "".join(text for page, text in PAGES.items() if page.startswith("docs/reference/"))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page: str) -> None:
    place = (ROOT / page).parent
    assert [link for link in links(PAGES[page]) if not (place / link).is_file()] == []


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert {f"docs/{page}" for page in listed} == {page for page in PAGES if page.startswith("docs/")}


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 250


def test_the_options_table_names_every_option() -> None:
    documented = set(re.findall(r"^\| `(\w+)` \|", PAGES["docs/options.md"], re.MULTILINE))
    assert documented == {entry.name for entry in fields(LowModeConfig)}


def test_the_reference_names_every_public_name() -> None:
    def listed(package: str) -> set[str]:
        return set(re.findall(rf"^::: {package}\.(\w+)$", REFERENCE, re.MULTILINE))

    assert listed("lowmode_fx") | {"PassError"} == set(lowmode_fx.__all__)  # which is one of passes
    assert listed("passes") == set(passes.__all__)


def test_the_reference_of_the_commands_names_every_option() -> None:
    reference = PAGE.read_text()
    for name in ("report", "probe", "tune", "train", "draw"):
        assert f"## lowmode-fx {name}\n" in reference
    assert "| `--ladder` |" in reference and "| `--compile, --no-compile` |" in reference
    assert "| `--rounding` | `ceil`, `floor`, `cover` | " in reference and "| `--epochs` | `int` | " in reference
    assert cli.app.registered_commands and reference.count("| `MODEL` |") == 5


def test_the_reference_of_the_commands_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of options: ``python -m docs.hooks.command_reference``. Whatever the terminal, it is the same."""
    page = PAGE.read_text()
    for columns, term in (("40", "dumb"), ("200", "xterm-256color")):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setenv("TERM", term)
        assert with_reference(page) == page
    assert with_reference(page.replace("`--ladder`", "`--rungs`")) == page


def test_the_zoos_table_has_every_model() -> None:
    html = zoo_table(ROOT / "bench/results/zoo.csv")
    records = (ROOT / "bench/results/zoo.csv").read_text().splitlines()[1:]
    assert html.count("<tr>") == 1 + len(records) and "<td>torchvision:resnet18</td>" in html


def test_public_docstrings_describe_every_parameter() -> None:
    """In sections of Google's style: ``Args``, or ``Attributes`` of a result."""
    results = {"FlopReport", "LayerFlops"}  # their properties have docstrings of their own
    protocols = {"Schedule", "GraphPass"}
    missing = []
    for package in (lowmode_fx, passes):
        for name in set(package.__all__) - results - protocols - {"Mode"}:
            public = getattr(package, name)
            if isinstance(public, type) and issubclass(public, Exception):
                continue
            described = set(re.findall(r"^    \*{0,2}(\w+): ", inspect.getdoc(public) or "", re.MULTILINE))
            missing += [(name, each) for each in inspect.signature(public).parameters if each not in described]
    assert missing == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/contributing/architecture.md"])
def test_every_file_that_contributors_are_sent_to_is_there(page: str) -> None:
    named = set(re.findall(r"`((?:lowmode_fx|passes|tests|bench|docs)/[\w/.*]+?)/?`", PAGES[page]))
    assert len(named) > 5 and [file for file in named if not list(ROOT.glob(file))] == []


def test_every_test_that_the_trainers_table_names_is_there() -> None:
    text = PAGES["docs/contributing/tested.md"].split("## With the trainers")[1].split("\n## ")[0]
    cells = [line.split("|")[-2] for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(cells) > 35
    for cell in cells:
        sources = "".join(file.read_text() for file in (ROOT / "tests").rglob("*.py"))
        for name in re.findall(r"`([^`]+)`", cell):
            if name.endswith(".py"):
                (file,) = (ROOT / "tests").rglob(f"*{name}") if "/" not in name else [ROOT / "tests/semantics" / name]
                sources = file.read_text()
            else:
                pattern = re.escape(name).replace("…", r"\w*")
                assert re.search(rf"(def|class) (test_)?{pattern}\b", sources), f"{name}: {cell}"
