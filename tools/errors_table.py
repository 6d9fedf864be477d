"""Writes docs/errors.md from the error tree; `--check` compares and writes nothing."""

import sys
from pathlib import Path

from modelyard.errors import all_errors

PAGE = Path(__file__).resolve().parent.parent / "docs" / "errors.md"
HEAD = """# Errors

Every error that Modelyard raises on purpose, as `modelyard/errors.py` defines it. On the wire an
error is a status code and one `google.rpc.ErrorInfo` with the domain `modelyard`, the reason below,
and metadata that names what was wrong; `google.rpc.RetryInfo` stands beside it where it is known
when a new call may succeed. The SDK raises the class of the reason. Programs match on the reason,
never on the text. An exception that nobody foresaw is INTERNAL, with a fixed text and an id that
the server's log repeats.

The race: `surface` gives the error to the caller at once; `retry` tries another replica of the same
version first; `fall back` goes on to the next version of the route.

| class | code | reason | the race does | when |
| --- | --- | --- | --- | --- |
"""


def page() -> str:
    """The whole page."""
    rows = [
        f"| `{error.__name__}` | {error.code.name} | `{error.reason}` | {error.on_failure.value}"
        f" | {(error.__doc__ or '').strip().splitlines()[0]} |"
        for error in sorted(all_errors(), key=lambda e: (e.code, e.reason))
        if error.__module__ == "modelyard.errors"
    ]
    return HEAD + "\n".join(rows) + "\n"


def main() -> None:
    """Writes the page, or tells that it is stale."""
    if "--check" in sys.argv[1:]:
        if PAGE.read_text() != page():
            raise SystemExit("docs/errors.md is stale, run `make generate`")
    else:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
