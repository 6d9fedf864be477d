"""Routes: how the calls of one model are answered. Values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from modelyard.names import LIVE

# What a constant output holds: a scalar, or (nested) lists of them.
Json: TypeAlias = "float | str | bool | list[Json]"


@dataclass(frozen=True, slots=True)
class Target:
    """A version of a route's model: by number, or by label where the number is 0."""

    version: int = 0
    label: str = ""

    def __str__(self) -> str:
        return str(self.version) if self.version else self.label


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the calls, by its weight beside the other shares'."""

    target: Target
    weight: int


@dataclass(frozen=True, slots=True)
class Match:
    """Calls that have all these metadata values; `*` fits any value."""

    metadata: Mapping[str, str]
    target: Target

    def fits(self, metadata: Mapping[str, str | bytes]) -> bool:
        """Tells whether a call's metadata has them all."""
        return all(
            key in metadata and value in ("*", metadata[key])
            for key, value in self.metadata.items()
        )


@dataclass(frozen=True, slots=True)
class Hedge:
    """A second attempt when the first takes long.

    Attributes:
        max_extra_load: Hedges per call of the callers' own, at most.
        delay: When it starts; None for the quantile of recent latencies that the load allows.
    """

    max_extra_load: float
    delay: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Constant:
    """An answer that is always the same: the outputs by name."""

    outputs: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class LastGood:
    """What the model last answered to a call with the same value of the metadata `key`."""

    key: str
    max_age: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Fallback:
    """What answers when everything before has failed or takes too long.

    Attributes:
        answer: A version, or an answer that no host gives.
        after: When a version starts at the latest; None for an even share of the call's time.
    """

    answer: Target | Constant | LastGood
    after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """One version of several that all get the call; its answer counts from a moment on."""

    target: Target
    accept_from: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that sees a sample of the calls."""

    target: Target
    sample: float


@dataclass(frozen=True, slots=True)
class Route:
    """How calls of one model are answered. What is None takes the gateway's default.

    `protos/modelyard/gateway/v1/route.proto` says what each field means.
    """

    model: str
    default: Target = Target(label=LIVE)
    deadline: timedelta | None = None
    max_attempts: int | None = None
    split: tuple[Share, ...] = ()
    sticky: str = ""
    match: tuple[Match, ...] = ()
    hedge: Hedge | None = None
    fallback: tuple[Fallback, ...] = ()
    rendezvous: tuple[Rendezvous, ...] = ()
    shadow: tuple[Shadow, ...] = ()
    tap: float = 0.0
    revision: int = 0

    @property
    def etag(self) -> str:
        """Changes with every replacement."""
        return str(self.revision)

    def targets(self) -> tuple[Target, ...]:
        """Every version that the route may use."""
        return tuple(target for _, target in self.fields())

    def answering(self) -> tuple[Target, ...]:
        """Every version that may answer a caller."""
        shadows = {f"shadow[{index}]" for index in range(len(self.shadow))}
        return tuple(target for field, target in self.fields() if field not in shadows)

    @property
    def recorded(self) -> float:
        """The share of the calls that the event log records: what the tap or a shadow wants."""
        return max((self.tap, *(shadow.sample for shadow in self.shadow)))

    def fields(self) -> Iterator[tuple[str, Target]]:
        """Every version that the route may use, with the field that names it."""
        yield "default", self.default
        for index, share in enumerate(self.split):
            yield f"split[{index}]", share.target
        for index, match in enumerate(self.match):
            yield f"match[{index}]", match.target
        for index, fallback in enumerate(self.fallback):
            if isinstance(fallback.answer, Target):
                yield f"fallback[{index}]", fallback.answer
        for index, meeting in enumerate(self.rendezvous):
            yield f"rendezvous[{index}]", meeting.target
        for index, shadow in enumerate(self.shadow):
            yield f"shadow[{index}]", shadow.target
