"""Calls of the log, field by field: what is packed is unpacked as it was, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.events.calls import Facts, pack, parse, unpack
from modelyard.events.event import event_of, facts_of
from tests.kit.calls import MALFORMED, facts


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


@pytest.mark.parametrize(("calls", "complaint"), MALFORMED)
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
