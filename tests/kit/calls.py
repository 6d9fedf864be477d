"""Calls as they may lie in the log, and as they may not."""

import math

from hypothesis import strategies as st

from modelyard.events.calls import Facts, Payload
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


def packed(**more):
    return pb.Calls(model="models/m", time=[1.0, 2.0], **more)


# What is no two calls, and what `parse` says of it.
MALFORMED = [
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
]
