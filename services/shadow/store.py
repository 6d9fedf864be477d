"""What lasts of evaluations: themselves and what they learnt, in Redis."""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisError

from modelyard.client.inference import outputs_of
from modelyard.errors import StoreUnavailable
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.shadow.v1 import evaluation_pb2
from services.shadow.observation import Arrays

_EVALUATIONS = "{modelyard}:evaluations"
# A truth that came before its call waits so long for it, in seconds.
_EARLY = 3600
# Whoever asks again within so many seconds gets the evaluation that was made the first time.
_ASKED = 7 * 86_400


class Store:
    """Keeps evaluations.

    Args:
        redis: A client that answers bytes.
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    async def all(self) -> list[evaluation_pb2.Evaluation]:
        """Every evaluation. Raises StoreUnavailable."""
        with _answering():
            held = await self._redis.hgetall(_EVALUATIONS)
        return [evaluation_pb2.Evaluation.FromString(data) for data in held.values()]

    async def put(self, evaluation: evaluation_pb2.Evaluation) -> None:
        """Keeps an evaluation. Raises StoreUnavailable."""
        with _answering():
            await self._redis.hset(_EVALUATIONS, evaluation.name, evaluation.SerializeToString())

    async def made(self, request_id: str, name: str) -> str:
        """The evaluation that a request made: this one, unless it made another before."""
        key = f"{{modelyard}}:evaluation-request:{request_id}"
        with _answering():
            if await self._redis.set(key, name, nx=True, ex=_ASKED):
                return name
            held: bytes | None = await self._redis.get(key)
        return name if held is None else held.decode()

    async def remove(self, name: str) -> None:
        """Forgets an evaluation. Raises StoreUnavailable."""
        with _answering():
            await self._redis.unlink(_state_key(name))
            await self._redis.hdel(_EVALUATIONS, name)

    async def keep(self, name: str, state: Mapping[str, Any]) -> None:
        """Keeps what an evaluation learnt. Raises StoreUnavailable."""
        data = zlib.compress(json.dumps(state).encode(), 1)
        with _answering():
            await self._redis.set(_state_key(name), data)

    async def kept(self, name: str) -> dict[str, Any] | None:
        """What an evaluation had learnt; None for nothing. Raises StoreUnavailable."""
        with _answering():
            data = await self._redis.get(_state_key(name))
        if data is None:
            return None
        state: dict[str, Any] = json.loads(zlib.decompress(data))
        return state


class AwaitingTruth:
    """Answers that wait for their truth, for a while; implements `runner.Awaiting`.

    Args:
        redis: A client that answers bytes.
        name: Of the evaluation.
        age: How long they wait at most, in seconds.
        largest: Answers that are larger together, in bytes, are not kept.
    """

    def __init__(self, redis: Any, name: str, age: float, largest: int = 64 << 10) -> None:
        self._redis = redis
        self._prefix = f"{{{name}}}:awaiting:"
        self._age = age
        self._largest = largest

    async def put(
        self, request_id: str, answers: Mapping[int, bytes], parts: Sequence[tuple[str, str]]
    ) -> bytes | None:
        """See `Awaiting.put`."""
        if sum(map(len, answers.values())) > self._largest:
            return None
        fields: dict[str, bytes] = {str(number): raw for number, raw in answers.items()}
        fields["parts"] = json.dumps(list(parts)).encode()
        key = self._prefix + request_id
        with _answering():
            pipe = self._redis.pipeline(transaction=False)
            pipe.hset(key, mapping=fields)
            pipe.expire(key, max(1, int(self._age)))
            pipe.get(self._truth_key(request_id))
            truth: bytes | None = (await pipe.execute())[-1]
        return truth

    async def early(self, request_id: str, truth: bytes) -> None:
        """See `Awaiting.early`."""
        with _answering():
            await self._redis.set(self._truth_key(request_id), truth, ex=_EARLY)

    def _truth_key(self, request_id: str) -> str:
        return f"{self._prefix}truth:{request_id}"

    async def get(
        self, request_id: str
    ) -> tuple[Mapping[int, Arrays], Sequence[tuple[str, str]]] | None:
        """See `Awaiting.get`."""
        with _answering():
            held = await self._redis.hgetall(self._prefix + request_id)
        if not held:
            return None
        parts = [(text, value) for text, value in json.loads(held.pop(b"parts"))]
        return {
            int(number): outputs_of(oip.ModelInferResponse.FromString(raw))
            for number, raw in held.items()
        }, parts

    async def forget(self, request_ids: Iterable[str]) -> None:
        """See `Awaiting.forget`."""
        keys = [
            key
            for request_id in request_ids
            for key in (self._prefix + request_id, self._truth_key(request_id))
        ]
        if keys:
            with _answering():
                await self._redis.unlink(*keys)


def _state_key(name: str) -> str:
    return f"{{modelyard}}:evaluation:{name}"


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable(f"the store of evaluations does not answer: {error}") from error
