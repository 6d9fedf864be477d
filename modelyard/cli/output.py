"""What commands print: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table

console = Console()
errors = Console(stderr=True)


def print_json(value: object) -> None:
    """Prints JSON: indented on a terminal, one line otherwise."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None), flush=True)


def as_dict(message: Message) -> dict[str, object]:
    """A message as the contract's field names and values."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def as_dicts(messages: Iterable[Message]) -> list[dict[str, object]]:
    """Messages as `as_dict` gives them."""
    return [as_dict(message) for message in messages]


def print_table(columns: Mapping[str, str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Prints rows under titles; a column's justification is left, right or center."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in columns.items():
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    if not table.row_count:
        errors.print(empty, highlight=False)
        return
    # Where no person looks, a long digest must stay on its line.
    Console(width=None if console.is_terminal else 400, highlight=False).print(table)


def short(digest: str) -> str:
    """The beginning of a digest."""
    return digest.removeprefix("sha256:")[:12]


def size(count: int) -> str:
    """Bytes for a person."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 3)
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def moment(time: Timestamp) -> str:
    """A time in the person's own zone."""
    return time.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(time: Timestamp) -> str:
    """How long ago, for a person."""
    passed = int((datetime.now(UTC) - time.ToDatetime(UTC)).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if passed >= length:
            return f"{passed // length} {unit}"
    return f"{max(passed, 0)} s"
