"""docs/catalogue.md says what the constraints say."""

from __future__ import annotations

import re

import pytest

from computed.page import PAGE, page
from computed.table import BUILT_IN
from computed.tables.costs import COSTS
from computed.tables.peers import COLUMNS, PEERS


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "write it again: python -m computed.page"


def test_each_constraint_has_a_section_and_a_row():
    text = page()
    for entry in BUILT_IN:
        assert f"\n### {entry.name}\n\n`{entry.signature}`: {entry.summary}.\n" in text
    assert set(PEERS) == {entry.name for entry in BUILT_IN} == set(COSTS)
    assert {column for peers in PEERS.values() for column in peers} == set(COLUMNS)


@pytest.mark.parametrize("entry", BUILT_IN, ids=lambda entry: entry.name)
def test_each_docstring_says_what_the_page_promises(entry):
    told = " ".join(entry.load().__doc__.split())
    assert re.search(r" Example: >>> ", told)
    assert "weight decay" in told.lower()
    assert told.count("``") % 2 == 0
