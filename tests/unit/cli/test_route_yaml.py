"""Routes as YAML."""

import pytest

from modelyard.cli.route_yaml import dump, parse
from modelyard.errors import InvalidRoute

WHOLE = "default:\n  label: canary\ndeadline: 200ms\nretry:\n  max_attempts: 2\netag: '7'\n"


@pytest.mark.parametrize("text", [WHOLE, "default:\n  version: 3\n", "default:\n  label: live\n"])
def test_what_is_printed_can_be_read(text: str) -> None:
    assert dump(parse(text)) == text


def test_nothing_is_the_default_route() -> None:
    assert dump(parse("")) == "default:\n  label: live\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hedge: {}", "unknown field 'hedge'; a route has default, deadline, retry, etag"),
        ("retry: {attempts: 2}", "unknown field 'retry.attempts'; retry has max_attempts"),
        ("default: {lable: live}", "unknown field 'default.lable'; default has label, version"),
        ("default: live", "default is a mapping, not 'live'"),
        ("- a", "a route is a mapping, not"),
        ("deadline: 200", "deadline: 200 is no duration such as 200ms"),
        ("deadline: soon", "deadline: 'soon' is no duration"),
        ("retry: {max_attempts: 6}", "retry.max_attempts: 6 is not a whole number from 1 to 5"),
        ("default: {version: 0}", "default.version: 0 is no version number"),
        ("default: {label: [a]}", "default.label: .* is no text"),
        ("a: b: c", "this is no YAML in line 1"),
    ],
)
def test_complaints_name_the_field(text: str, complaint: str) -> None:
    with pytest.raises(InvalidRoute, match=complaint):
        parse(text)
