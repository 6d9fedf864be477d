"""docs/errors.md says what the error tree says."""

from tools.errors_table import PAGE, page


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page()
