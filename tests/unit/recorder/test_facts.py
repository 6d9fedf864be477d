"""What is told of a call, how it is carried, and the event that is made of it."""

import asyncio

import pytest

from gateway.call import Answer, Call, Made
from gateway.plan import Kind
from gateway.recorder import frames
from gateway.recorder.facts import Describer
from gateway.tap import Recording
from modelyard.catalog import Catalog, Route
from modelyard.catalog.model import frozen
from modelyard.events.event import event_of
from modelyard.events.v1 import event_pb2 as pb
from modelyard.names import ModelName, VersionName

V1, V2 = VersionName("m", 1), VersionName("m", 2)
CATALOG = Catalog(7, routes=frozen({"m": Route("m", revision=4)}))


def recording(trail=(), answer=None, failure=None, **more):
    call = Call("m", "", b"request", 10.0, "r", **more)
    call.trail = list(trail)
    return Recording(call, CATALOG, 5.0, 1_790_000_000.25, 5.25, answer, failure)


def event(recording):
    return event_of(Describer()(recording))


async def carried(*facts):
    """What the other end reads."""
    reader = asyncio.StreamReader()
    for piece in frames.pack(frames.CALLS, facts):
        reader.feed_data(piece)
    reader.feed_eof()
    kind, value = await frames.read(reader)
    assert (kind, await frames.read(reader)) == (frames.CALLS, None)
    return value


RACE = recording(
    [
        Made(V1, Kind.PRIMARY, 5.0, "a", 5.25, "cancelled"),
        Made(V1, Kind.HEDGE, 5.1, "b", 5.2, "failed", "HOST_GONE"),
        Made(V2, Kind.FALLBACK, 5.1, "c", 5.25, "answered"),
        Made(V2, Kind.FALLBACK, 5.1, "d"),
    ],
    Answer(b"answer", V2, Kind.FALLBACK, 3, "c"),
    metadata=(("x-user", "u"), ("x-raw-bin", b"\x00"), ("modelyard-tenant", "acme")),
    target=V1,
)


def test_a_record_tells_the_whole_race():
    told = event(RACE).call
    assert [(a.kind, a.host, a.outcome) for a in told.attempts] == [
        ("primary", "a", pb.Attempt.OUTCOME_CANCELLED),
        ("hedge", "b", pb.Attempt.OUTCOME_FAILED),
        ("fallback", "c", pb.Attempt.OUTCOME_WON),
        ("fallback", "d", pb.Attempt.OUTCOME_UNSPECIFIED),
    ]
    assert not told.attempts[3].HasField("end")
    assert told.attempts[1].error == "HOST_GONE"
    assert told.attempts[1].start.ToTimedelta().total_seconds() == pytest.approx(0.1, abs=2e-6)
    assert (told.revision, told.route_revision, told.tenant) == (7, 4, "acme")
    # What a float holds of it.
    assert told.time.ToNanoseconds() == pytest.approx(1_790_000_000_250_000_000, abs=256)
    assert told.deadline.ToTimedelta().total_seconds() == 5.0
    assert told.duration.ToTimedelta().total_seconds() == 0.25
    assert [(m.key, m.text, m.binary) for m in told.metadata][:2] == [
        ("x-user", "u", b""),
        ("x-raw-bin", "", b"\x00"),
    ]
    assert (told.answer.served_by, told.answer.host) == ("models/m/versions/2", "c")
    assert told.request.inline == b"request"
    assert told.response.inline == b"answer"


def test_a_failure_is_told_without_an_answer():
    told = event(recording(failure=("HOST_GONE", "no host"))).call
    assert (told.failure.reason, told.failure.message) == ("HOST_GONE", "no host")
    assert not told.HasField("response")


def test_a_default_is_an_attempt_of_the_record():
    told = event(recording(answer=Answer(b"constant", ModelName("m"), Kind.DEFAULT, 1))).call
    (attempt,) = told.attempts
    assert (attempt.version, attempt.kind, attempt.outcome) == (
        "models/m",
        "default",
        pb.Attempt.OUTCOME_WON,
    )


def test_two_answers_of_one_version_have_one_winner():
    told = event(
        recording(
            [
                Made(V1, Kind.PRIMARY, 5.0, "a", 5.2, "answered"),
                Made(V1, Kind.HEDGE, 5.1, "b", 5.2, "answered"),
            ],
            Answer(b"answer", V1, Kind.HEDGE, 2, "b"),
        )
    ).call
    assert [a.outcome for a in told.attempts] == [pb.Attempt.OUTCOME_LOST, pb.Attempt.OUTCOME_WON]


def test_what_is_remembered_of_one_catalogue_is_not_told_of_the_next():
    describe, later = Describer(), recording()
    assert describe(recording()).route_revision == 4
    later.catalog = Catalog(8, routes=frozen({"m": Route("m", revision=8)}))
    assert (describe(later).revision, describe(later).route_revision) == (8, 8)


async def test_facts_are_carried_as_they_are():
    facts = Describer()(RACE)
    assert await carried(facts, facts) == [facts, facts]


@pytest.mark.parametrize(("request_", "response"), [(1 << 20, 5), (5, 1 << 20), (70_000, 80_000)])
async def test_large_payloads_are_carried_too(request_, response):
    small = Describer()(RACE)
    large = small._replace(request=b"q" * request_, response=b"r" * response)
    assert await carried(small, large, small) == [small, large, small]


async def test_a_frame_that_is_cut_off_is_none():
    whole = b"".join(frames.pack(frames.CALLS, [Describer()(RACE)._replace(request=b"q" * 70_000)]))
    for end in (0, 3, 10, len(whole) - 1):
        reader = asyncio.StreamReader()
        reader.feed_data(whole[:end])
        reader.feed_eof()
        assert await frames.read(reader) is None
