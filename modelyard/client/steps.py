"""What a client does, apart from how it waits.

A program is a generator: it yields one step at a time, is sent the step's result (or thrown the
step's error), and returns what its caller asked for. `Client` and `AsyncClient` each run the same
programs; one blocks at a step, the other awaits it.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar, cast

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)
T = TypeVar("T")

Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Method(Generic[M]):
    """A remote method, by its full service name, and the message it answers with."""

    service: str
    name: str
    response: type[M]

    @property
    def path(self) -> str:
        """As it travels: `/service/Method`."""
        return f"/{self.service}/{self.name}"


@dataclass(frozen=True, slots=True)
class Reply(Generic[M]):
    """A response and the metadata that came after it."""

    message: M
    trailing: dict[str, str]


@dataclass(frozen=True, slots=True)
class Unary:
    """Sends one message and gives a `Reply`. The timeout is in seconds; None sets no deadline."""

    method: Method[Any]
    request: Message
    timeout: float | None = None
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class Upload:
    """Sends a stream of messages and gives the response."""

    method: Method[Any]
    requests: Iterator[Message]


@dataclass(frozen=True, slots=True)
class Blocking:
    """Runs a function that reads files or computes for long, and gives what it returns."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Waits for so many seconds."""

    seconds: float


Step: TypeAlias = Unary | Upload | Blocking | Sleep
Program: TypeAlias = Generator[Step, Any, T]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a registration is.

    Attributes:
        stage: `upload`, `check`, `label`, or while hosts start: `pending`, `fetching`, `loading`
            and so on, as the host says; at last `serving`.
        done: Bytes uploaded, within `upload`.
        total: Bytes in all files, within `upload`.
    """

    stage: str
    done: int = 0
    total: int = 0


class OnProgress(Protocol):
    """Is told how far a registration is; called from the thread that calls the client."""

    def __call__(self, progress: Progress, /) -> object:
        """Takes the news."""
        ...


@dataclass(slots=True)
class Tally:
    """Adds up the bytes of several files and tells the listener."""

    listener: OnProgress | None
    total: int
    _done: dict[str, int] = field(default_factory=dict)

    def at(self, digest: str, done: int) -> None:
        """Says how many bytes of one file are with the server."""
        self._done[digest] = done
        if self.listener is not None:
            self.listener(Progress("upload", sum(self._done.values()), self.total))

    @classmethod
    def of(cls, listener: OnProgress | None, sizes: dict[str, int]) -> Self:
        """A tally of files by their digest."""
        return cls(listener, sum(sizes.values()))


def unary(
    method: Method[M], request: Message, timeout: float | None = None, metadata: Metadata = ()
) -> Program[M]:
    """A program of one call."""
    reply = yield Unary(method, request, timeout, metadata)
    return cast(Reply[M], reply).message


def blocking(function: Callable[[], T]) -> Program[T]:
    """A program of one function."""
    return cast(T, (yield Blocking(function)))
