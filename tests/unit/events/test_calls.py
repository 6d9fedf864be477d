"""Calls of the log, field by field: what is packed is unpacked as it was, and nothing else is."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.events.calls import Facts, Payload, event_of, facts_of, pack, parse, unpack
from modelyard.events.v1 import event_pb2 as pb

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SECONDS = st.floats(0, 1e9)
KEYS = st.text("abc-", min_size=1, max_size=5)
METADATA = st.lists(
    st.one_of(
        st.tuples(KEYS.filter(lambda key: not key.endswith("-bin")), TEXTS),
        st.tuples(KEYS.map(lambda key: f"{key}-bin"), st.binary(max_size=5)),
    ),
    max_size=3,
).map(tuple)
ATTEMPTS = st.lists(
    st.tuples(
        *(TEXTS, TEXTS, TEXTS, TEXTS, SECONDS, st.none() | SECONDS),
        st.sampled_from(pb.Attempt.Outcome.values()),
        TEXTS,
    ),
    max_size=3,
).map(tuple)
REDACTED = st.binary(max_size=9).map(lambda data: Payload(data, len(data), redacted=True))
AWAY = st.builds(Payload, st.none(), st.integers(1, 1 << 60), TEXTS, st.booleans())
PAYLOADS = st.binary(max_size=9) | REDACTED | AWAY


@st.composite
def facts(draw):
    answered = draw(st.booleans())
    named = st.tuples(TEXTS.filter(bool), TEXTS, TEXTS)
    return Facts(
        "m",
        draw(TEXTS),
        draw(TEXTS),
        draw(st.floats(0, 2e9)),
        draw(st.none() | SECONDS),
        draw(SECONDS),
        draw(st.integers(0, 1 << 60)),
        draw(st.integers(0, 1 << 60)),
        draw(TEXTS),
        draw(METADATA),
        draw(ATTEMPTS),
        draw(named) if answered else None,
        None if answered else draw(named)[:2],
        draw(PAYLOADS),
        draw(PAYLOADS) if answered else b"",
    )


def carried(calls):
    return list(unpack(parse(pack(calls).SerializeToString(), len(calls))))


@given(st.lists(facts(), min_size=1, max_size=5))
def test_what_is_packed_is_unpacked_as_it_was(calls):
    assert carried(calls) == calls


def near(seconds):
    return seconds if seconds is None else pytest.approx(seconds, rel=1e-12, abs=1e-9)


@given(facts())
def test_a_call_is_an_event_and_back_to_a_nanosecond(call):
    again = facts_of(event_of(call))
    exact = ("time", "deadline", "duration", "attempts")
    for name in set(Facts._fields) - set(exact):
        assert getattr(again, name) == getattr(call, name), name
    assert [near(getattr(again, name)) for name in exact[:-1]] == [
        getattr(call, name) for name in exact[:-1]
    ]
    for one, other in zip(again.attempts, call.attempts, strict=True):
        assert one[:4] + one[6:] == other[:4] + other[6:]
        assert [near(one[4]), near(one[5])] == list(other[4:6])


def packed(**more):
    return pb.Calls(model="models/m", time=[1.0, 2.0], **more)


@pytest.mark.parametrize(
    ("calls", "complaint"),
    [
        (packed(request_id=["a"]), "request_id: 1 values for 2"),
        (packed(deadline=[1.0, 2.0, 3.0]), "deadline: 3 values for 2"),
        (packed(metadata=pb.Calls.Metadata(count=[2])), "count: 1 values for 2"),
        (packed(metadata=pb.Calls.Metadata(count=[2, 1], key=["a"])), "key: 1 values for 3"),
        (packed(metadata=pb.Calls.Metadata(count=[1 << 40, 0])), "key: 0 values for"),
        (packed(attempts=pb.Calls.Attempts(count=[-1, 1])), "less than none"),
        (packed(attempts=pb.Calls.Attempts(count=[1, 0], start=[0.5])), "version: 0 values for 1"),
        (packed(request=pb.Calls.Payloads(inline=[b"a"])), "inline: 1 values for 2"),
        (pb.Calls(time=[1.0, math.nan]), "time: before 1970"),
        (pb.Calls(time=[1.0, -1.0]), "time: before 1970"),
        (pb.Calls(time=[1.0, 1e300]), "time: before 1970"),
        (pb.Calls(time=[1.0]), "time: 1 values for 2"),
        (pb.Calls(), "time: 0 values for 2"),
    ],
)
def test_what_does_not_fit_together_is_refused(calls, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(calls.SerializeToString(), 2)


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\x02a", b"\x12\x01\xff"])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(ValueError, match="no calls"):
        parse(data, 1)


def test_what_is_alike_for_all_takes_no_room():
    call = Facts("m", "r", "", 1.0, None, 0.5, 0, 0, "", (), (), ("v", "", ""), None, b"", b"")
    said = {field.name for field, _ in pack([call, call]).ListFields()}
    assert said == {"model", "request_id", "time", "deadline", "duration", "served_by"}


@pytest.mark.parametrize("spoilt", [{"request_id": "\udc80"}, {"revision": 1 << 70}, {"time": "x"}])
def test_what_no_message_can_hold_is_told(spoilt):
    call = Facts("m", "r", "", 1.0, None, 0.5, 0, 0, "", (), (), ("v", "", ""), None, b"", b"")
    with pytest.raises((ValueError, TypeError)):
        pack([call, call._replace(**spoilt)])
