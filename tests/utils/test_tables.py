"""Tables read back as what went into them."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowmode_fx.utils.tables import csv_table, markdown_table, rendered, text_table

CELLS = st.text(st.characters(exclude_categories=("C", "Z")), max_size=8)
LINES = st.text(st.characters(exclude_characters="\r", exclude_categories=("Cs",)))


def test_a_markdown_table_says_to_which_side_its_columns_go() -> None:
    table = markdown_table(("network", "step", "ratio"), [("a", "low", "0.5"), ("b", "", "1")], left=2)
    assert table == "| network | step | ratio |\n| :-- | :-- | --: |\n| a | low | 0.5 |\n| b |  | 1 |"


@given(st.lists(st.tuples(CELLS, CELLS), max_size=4))
def test_no_cell_of_a_markdown_table_adds_a_column(rows: list[tuple[str, str]]) -> None:
    lines = markdown_table(("a", "b"), rows).split("\n")
    assert len(lines) == 2 + len(rows)
    assert {line.count("|") for line in lines} == {3}


# Python's own module does not quote a lone carriage return.
@given(st.lists(st.tuples(LINES, LINES), max_size=4))
def test_a_csv_table_is_read_back_as_it_was(rows: list[tuple[str, str]]) -> None:
    text = csv_table(("a", "b"), rows)
    kept = list(csv.reader(io.StringIO(text, newline="")))
    assert kept == [["a", "b"], *map(list, rows)]


@pytest.mark.parametrize("name", ["layers[0]", "[bold]", ":cat:", "C:\\x", "[/]"])
def test_text_tables_take_names_at_their_word(name: str) -> None:
    table = text_table(("site", "macs"))
    table.add_row(name, "1")
    assert rendered(name, table).split() == [name, "site", "macs", name, "1"]


def test_text_tables_are_never_wrapped_nor_cut() -> None:
    table = text_table(("site", "macs"))
    table.add_row("a" * 300, "1")
    assert rendered(table, "b" * 2000).split("\n")[1:] == ["a" * 300 + "     1", "b" * 2000]


def test_columns_go_to_the_right_but_the_first_and_those_without_a_title() -> None:
    table = text_table(("site", "macs", ""))
    table.add_row("conv1", "12", "██")
    table.add_row("fc", "3", "█")
    assert rendered(table) == "site   macs\nconv1    12  ██\nfc        3  █"
