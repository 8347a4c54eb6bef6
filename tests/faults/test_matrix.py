"""The fault matrix is whole, and its page says what is tested now."""

from __future__ import annotations

from tests.faults import matrix


def test_every_row_has_a_test_or_says_openly_that_it_has_none() -> None:
    tested = {row.id for row in matrix.tests()}
    assert tested <= set(matrix.FAULTS), "rows that are not in FAULTS of matrix.py"
    assert set(matrix.FAULTS) - tested <= set(matrix.OPEN), "rows without a test, and without a word why"
    assert set(matrix.OPEN) <= set(matrix.FAULTS)
    assert len(matrix.FAULTS) == 28 + 27 + 16 + 22 + 8 + 17


def test_the_page_is_what_the_tests_say() -> None:
    page = matrix.PAGE.read_text()
    assert page == matrix.written(page), "stale: run `python -m tests.faults.matrix`"
    assert len(matrix.table()) > 10_000
