"""The command line: `modelyard COMMAND ...`.

Exit codes: 0 done; 1 the yard said no; 2 the command was typed wrong; 3 nobody answers at the
address, or what should have answered is away. `shadow start --wait` and `shadow report --watch`
end with 4 for a rejection, and with 5 where there is no verdict.
"""

import sys

REFUSED, USAGE, UNAVAILABLE = 1, 2, 3


def main() -> None:
    """Runs the command line and exits."""
    try:
        import rich  # noqa: F401 - is it there?
        import typer  # noqa: F401 - is it there?
    except ImportError as error:
        sys.exit(f"error: the command line needs {error.name}: pip install 'modelyard[cli]'")

    from modelyard.cli.app import app
    from modelyard.errors import ModelyardError, Unavailable

    try:
        app(prog_name="modelyard")
    except ModelyardError as error:
        print(f"error: {error.reason}: {error.message}", file=sys.stderr)
        sys.exit(UNAVAILABLE if isinstance(error, Unavailable) else REFUSED)
    except BrokenPipeError:  # `modelyard history | head` is no fault.
        sys.stderr.close()
        sys.exit(REFUSED)
