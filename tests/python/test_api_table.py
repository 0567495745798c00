"""Every item of the public interface is used by a test."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import api_table


def test_every_item_has_a_test() -> None:
    rows = api_table.table()
    assert len(rows) > 200
    assert [str(item) for item, tests in rows if not tests] == []


def test_an_item_that_no_test_uses_is_seen() -> None:
    missing = api_table.Item("Topic", "nobody_" + "calls_this")
    assert not api_table.tests_of(missing, api_table.uses())
