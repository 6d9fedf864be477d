"""What is told of a call that is over: plain values, found where the catalogue is."""

from functools import lru_cache

from gateway.call import Answer, Made
from gateway.plan import Kind
from gateway.tap import Recording
from modelyard.catalog import Catalog
from modelyard.catalog.schema import schema_of
from modelyard.errors import NotFound
from modelyard.events.calls import Attempt, Facts
from modelyard.events.v1 import event_pb2 as pb
from modelyard.names import VersionName

# By how the trail tells it; `answered`, where another one's answer was the caller's.
_OUTCOMES = {
    "": pb.Attempt.OUTCOME_UNSPECIFIED,
    "answered": pb.Attempt.OUTCOME_LOST,
    "cancelled": pb.Attempt.OUTCOME_CANCELLED,
    "failed": pb.Attempt.OUTCOME_FAILED,
}

_schema_of = lru_cache(maxsize=4096)(schema_of)


class Describer:
    """Tells the facts of calls. Remembers what is alike for all calls of one catalogue."""

    def __init__(self) -> None:
        self._catalog: Catalog | None = None
        self._routed: dict[tuple[str, VersionName | None], tuple[int, str]] = {}
        self._versions: dict[VersionName, tuple[str, str]] = {}

    def __call__(self, recording: Recording) -> Facts:
        """The facts of a call that is over."""
        call, answer, began = recording.call, recording.answer, recording.began
        if recording.catalog is not self._catalog:
            self._catalog = recording.catalog
            self._routed.clear()
            self._versions.clear()
        key = call.model, call.target
        routed = self._routed.get(key)
        if routed is None:
            routed = self._routed[key] = self._routing(recording)
        return Facts(
            call.model,
            call.request_id,
            call.selector,
            recording.time,
            None if call.deadline is None else call.deadline - began,
            recording.ended - began,
            recording.catalog.revision,
            *routed,
            tuple(call.metadata),
            self._attempts(recording),
            None if answer is None else (str(answer.served_by), answer.attempt.value, answer.host),
            recording.failure,
            call.payload,
            b"" if answer is None else answer.payload,
        )

    def _routing(self, recording: Recording) -> tuple[int, str]:
        call, catalog = recording.call, recording.catalog
        route = catalog.routes.get(call.model)
        schema = ""
        if call.target is not None:
            try:
                signature = catalog.version(call.target).signature
            except NotFound:
                signature = None
            schema = "" if signature is None else _schema_of(signature)
        return 0 if route is None else route.revision, schema

    def _attempts(self, recording: Recording) -> tuple[Attempt, ...]:
        answer, began, won = recording.answer, recording.began, False
        attempts: list[Attempt] = []
        for made in recording.call.trail or ():
            outcome = _OUTCOMES[made.outcome]
            if not won and answer is not None and _is_answer(made, answer):
                outcome, won = pb.Attempt.OUTCOME_WON, True
            end = None if made.ended is None else made.ended - began
            asked = self._asked(recording.catalog, made.version)
            attempts.append(
                (*asked, made.kind.value, made.host, made.began - began, end, outcome, made.error)
            )
        if answer is not None and answer.attempt is Kind.DEFAULT:
            # No host was asked, so nothing of it is in the trail.
            at = recording.ended - began
            by = str(answer.served_by)
            attempts.append((by, "", Kind.DEFAULT.value, "", at, at, pb.Attempt.OUTCOME_WON, ""))
        return tuple(attempts)

    def _asked(self, catalog: Catalog, name: VersionName) -> tuple[str, str]:
        asked = self._versions.get(name)
        if asked is None:
            try:
                digest = catalog.version(name).digest
            except NotFound:
                digest = ""
            asked = self._versions[name] = str(name), digest
        return asked


def _is_answer(made: Made, answer: Answer) -> bool:
    return made.outcome == "answered" and (made.version, made.kind, made.host) == (
        answer.served_by,
        answer.attempt,
        answer.host or made.host,
    )
