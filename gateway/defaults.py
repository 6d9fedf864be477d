"""Answers that no host gives: constants, and what was last good."""

from collections import OrderedDict
from collections.abc import Callable

from gateway import envelope
from gateway.call import Answerer, Call
from gateway.plan import Attempt
from modelyard.catalog import Catalog, Constant, LastGood
from modelyard.catalog.constant import response
from modelyard.errors import VersionNotServing
from modelyard.names import ModelName

# What is remembered, in answers and in bytes.
MOST, MOST_BYTES = 100_000, 64 << 20


class Defaults:
    """Makes constants and remembers answers.

    Args:
        catalog: Gives the catalogue, whose signatures constants follow.
        clock: Seconds, monotonic.
    """

    def __init__(self, catalog: Callable[[], Catalog], clock: Callable[[], float]) -> None:
        self._catalog = catalog
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str, str], tuple[float, bytes, Answerer]] = OrderedDict()
        self._bytes = 0

    def answer(self, call: Call, attempt: Attempt) -> tuple[bytes, Answerer]:
        """The serialized response of a default attempt, and who gave it.

        Raises:
            VersionNotServing: Nothing that is young enough is remembered for the call.
            InvalidRoute: The constant does not fit the signature of the version asked.
        """
        match attempt.answer:
            case LastGood(key, max_age):
                held = self._kept.get((call.model, key, _value(call, key)))
                if held is None or self._clock() - held[0] > max_age.total_seconds():
                    raise VersionNotServing("no earlier answer is remembered for this call")
                return held[1], held[2]
            case Constant() as constant:
                assert call.target is not None, "the route chose one"
                signature = self._catalog().version(call.target).signature
                rows = envelope.rows(call.payload)
                return response(call.model, constant, signature, rows), ModelName(call.model)
        raise AssertionError(f"{attempt} is no default")

    def remember(self, call: Call, key: str, payload: bytes, given_by: Answerer) -> None:
        """Keeps an answer for the value that the call has of a metadata key, if it has one."""
        value = _value(call, key)
        if not value or len(payload) > MOST_BYTES // 16:
            return
        before = self._kept.pop((call.model, key, value), None)
        self._bytes += len(payload) - (len(before[1]) if before else 0)
        self._kept[(call.model, key, value)] = (self._clock(), payload, given_by)
        while len(self._kept) > MOST or self._bytes > MOST_BYTES:
            _, (_, gone, _) = self._kept.popitem(last=False)
            self._bytes -= len(gone)


def _value(call: Call, key: str) -> str:
    """The value of a metadata key; the last one, as everywhere."""
    return next((v for k, v in reversed(call.metadata) if k == key and isinstance(v, str)), "")
