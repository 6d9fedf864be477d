"""A stream, whatever carries it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway import envelope
from gateway.call import Answer, Call
from gateway.fronts.streams import answers
from gateway.plan import Kind
from modelyard.errors import Unavailable
from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.names import VersionName

REQUEST = pb.ModelInferRequest(model_name="m", id="7").SerializeToString()
ANSWER = pb.ModelInferResponse(model_name="m").SerializeToString()


async def service(call: Call) -> Answer:
    return Answer(ANSWER, VersionName("m", 1), Kind.PRIMARY)


@pytest.mark.parametrize("fault", [Unavailable("gone"), RuntimeError("a defect"), OSError("no")])
async def test_a_reader_that_fails_ends_its_stream_after_what_came_before(fault: Exception) -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield REQUEST
        yield REQUEST
        raise fault

    stream = answers(service, requests(), (), lambda: None, lambda: 0.0)
    seen = []
    with pytest.raises(type(fault)) as told:
        async with asyncio.timeout(10):
            async for answer in stream:
                seen.append(answer)
    assert told.value is fault
    assert seen == [envelope.stream_answer(ANSWER)] * 2
