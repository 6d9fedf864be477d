"""Routes as YAML."""

import re
from datetime import timedelta

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.cli.route_yaml import dump, duration, duration_text, parse
from modelyard.errors import InvalidRoute
from modelyard.gateway.v1 import route_pb2 as pb

WHOLE = """\
default: {label: live}
split:
- {label: live, weight: 95}
- {label: canary, weight: 5}
sticky: x-user-id
match:
- metadata: {x-tenant: '*'}
  version: 3
deadline: 200ms
retry: {max_attempts: 2}
hedge: {max_extra_load: 0.02, delay: 15ms}
fallback:
- {label: previous, after: 80ms}
- last_good: {key: x-user-id, max_age: 600s}
- default:
    y: [0.5, 0.5]
shadow:
- {version: 4, sample: 0.1}
tap: {sample: 0.5}
etag: '7'
"""
MEETING = """\
default: {label: live}
deadline: 200ms
rendezvous:
- {version: 3}
- {label: canary, accept_from: 80ms}
"""


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        MEETING,
        "default: {version: 3}\n",
        "default: {label: live}\n",
        "default: {label: canary}\ndeadline: 200ms\nretry: {max_attempts: 2}\netag: '7'\n",
        "default: {label: live}\nhedge: {max_extra_load: 0.02}\n",
        "default: {label: live}\nfallback:\n- last_good: {key: x-user-id}\n",
    ],
)
def test_what_is_printed_can_be_read(text: str) -> None:
    assert dump(parse(text)) == text


def test_nothing_is_the_default_route() -> None:
    assert dump(parse("")) == "default: {label: live}\n"


def test_a_whole_route_is_read_into_every_field() -> None:
    route = parse(WHOLE + "rendezvous: [{label: big}, {version: 2, accept_from: 1ms}]\n")
    named = {field.name for field, _ in route.ListFields()}
    # Its name is given beside it.
    assert named == set(pb.Route.DESCRIPTOR.fields_by_name) - {"name"}
    assert route.match[0].metadata == {"x-tenant": "*"}
    assert route.fallback[2].constant.outputs["y"].list_value.values[1].number_value == 0.5
    assert route.rendezvous[1].accept_from.ToMilliseconds() == 1


# As the registry has them: in milliseconds up to a second, in seconds from there on.
spans = st.one_of(
    st.integers(1, 999).map(lambda ms: timedelta(milliseconds=ms)),
    st.integers(1, 999).map(lambda us: timedelta(microseconds=us)),
    st.integers(1, 604_800).map(lambda s: timedelta(seconds=s)),
)
labels = st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True) | st.sampled_from(
    ["on", "no", "null", "true", "y"]
)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=8)
targets = st.one_of(
    st.builds(lambda n: pb.Target(version=n), st.integers(1, 10**17)),
    st.builds(lambda label: pb.Target(label=label), labels),
)
values = st.recursive(
    st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@st.composite
def fallbacks(draw: st.DrawFn) -> pb.Fallback:
    fallback = pb.Fallback()
    kind = draw(st.sampled_from(["target", "constant", "last_good"]))
    if kind == "target":
        fallback.target.CopyFrom(draw(targets))
        if draw(st.booleans()):
            fallback.after.FromTimedelta(draw(spans))
    elif kind == "last_good":
        fallback.last_good.key = draw(labels)
        if draw(st.booleans()):
            fallback.last_good.max_age.FromTimedelta(draw(spans))
    else:
        fallback.constant.SetInParent()
        for name, value in draw(st.dictionaries(labels, values, max_size=2)).items():
            held = fallback.constant.outputs[name]
            _hold(held, value)
    return fallback


def _hold(held, value: object) -> None:
    match value:
        case bool():
            held.bool_value = value
        case str():
            held.string_value = value
        case list():
            held.list_value.SetInParent()
            for item in value:
                _hold(held.list_value.values.add(), item)
        case _:
            held.number_value = value


@st.composite
def routes(draw: st.DrawFn) -> pb.Route:
    route = pb.Route(default=draw(targets), sticky=draw(st.just("") | labels))
    route.etag = draw(st.sampled_from(["", "0", "7", "1000"]))
    if draw(st.booleans()):
        route.deadline.FromTimedelta(draw(spans))
    if draw(st.booleans()):
        route.retry.max_attempts = draw(st.integers(1, 5))
    if draw(st.booleans()):
        route.hedge.max_extra_load = draw(st.floats(0.0, 1.0, exclude_min=True))
        if draw(st.booleans()):
            route.hedge.delay.FromTimedelta(draw(spans))
    for _ in range(draw(st.integers(0, 2))):
        route.split.add(target=draw(targets), weight=draw(st.integers(0, 1_000_000)))
    for _ in range(draw(st.integers(0, 2))):
        match = route.match.add(target=draw(targets))
        match.metadata.update(draw(st.dictionaries(labels, texts, max_size=2)))
    for _ in range(draw(st.integers(0, 2))):
        route.fallback.append(draw(fallbacks()))
    for _ in range(draw(st.integers(0, 2))):
        meeting = route.rendezvous.add(target=draw(targets))
        # No moment is the first moment, and is not written.
        meeting.accept_from.FromTimedelta(draw(spans))
    for _ in range(draw(st.integers(0, 2))):
        sample = draw(st.floats(0.0, 1.0, exclude_min=True))
        route.shadow.add(target=draw(targets), sample=sample)
    return route


@settings(max_examples=200, deadline=None)
@given(routes())
def test_any_route_there_and_back(route: pb.Route) -> None:
    assert parse(dump(route)).deadline == route.deadline


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("200ms", timedelta(milliseconds=200)),
        ("1.5s", timedelta(seconds=1.5)),
        ("2min", timedelta(minutes=2)),
        ("2 min", timedelta(minutes=2)),
        ("1h", timedelta(hours=1)),
        ("250us", timedelta(microseconds=250)),
        ("0.25ms", timedelta(microseconds=250)),
    ],
)
def test_durations_are_read(text: str, span: timedelta) -> None:
    assert duration("deadline", text) == span


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(milliseconds=200), "200ms"),
        (timedelta(seconds=1.5), "1.5s"),
        (timedelta(minutes=2), "120s"),
        (timedelta(microseconds=250), "250us"),
        (timedelta(microseconds=12_345), "12.345ms"),
        (timedelta(days=7), "604800s"),
    ],
)
def test_durations_are_written_in_their_largest_unit(span: timedelta, text: str) -> None:
    assert duration_text(span) == text


@pytest.mark.parametrize("text", ["", "200", "ms", "-5ms", "1e3s", "1,5s", "5 days", "1.s", ".5s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidRoute, match="is no duration such as 200ms") as refused:
        duration("hedge.delay", text)
    assert refused.value.metadata == {"field": "hedge.delay"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "hedges: {}",
            "unknown field 'hedges'; a route has default, split, sticky, match, deadline, retry,"
            " hedge, fallback, rendezvous, shadow, tap, etag",
        ),
        ("retry: {attempts: 2}", "unknown field 'retry.attempts'; retry has max_attempts"),
        ("default: {lable: live}", "unknown field 'default.lable'; default has label, version"),
        (
            "split: [{label: live, weight: 1}, {lable: x}]",
            "unknown field 'split[1].lable'; split[1] has label, version, weight",
        ),
        ("match: [{header: {}}]", "unknown field 'match[0].header'"),
        ("hedge: {load: 0.1}", "unknown field 'hedge.load'; hedge has max_extra_load, delay"),
        (
            "fallback: [{constant: {}}]",
            "'fallback[0].constant'; fallback[0] has label, version, after, default, last_good",
        ),
        ("fallback: [{last_good: {age: 1s}}]", "unknown field 'fallback[0].last_good.age'"),
        ("rendezvous: [{after: 1s}]", "unknown field 'rendezvous[0].after'"),
        ("shadow: [{share: 1}]", "'shadow[0].share'; shadow[0] has label, version, sample"),
        ("1: x", "unknown field '1'"),
        ("default: live", "default is a mapping, not 'live'"),
        ("split: {label: live}", "split is a list, not {'label': 'live'}"),
        ("fallback: [live]", "fallback[0] is a mapping, not 'live'"),
        ("fallback: [{last_good: x}]", "fallback[0].last_good is a mapping, not 'x'"),
        ("fallback: [{default: 0.5}]", "fallback[0].default is a mapping of outputs, not 0.5"),
        (
            "fallback: [{default: {y: 2026-01-01}}]",
            "fallback[0].default.y: datetime.date(2026, 1, 1) is no number, text or list",
        ),
        ("- a", "a route is a mapping, not"),
        ("deadline: 200", "deadline: 200 is no duration such as 200ms"),
        ("deadline: soon", "deadline: 'soon' is no duration"),
        ("hedge: {delay: 5}", "hedge.delay: 5 is no duration"),
        ("fallback: [{label: x, after: 5}]", "fallback[0].after: 5 is no duration"),
        ("rendezvous: [{accept_from: x}]", "rendezvous[0].accept_from: 'x' is no duration"),
        ("retry: {max_attempts: 6}", "retry.max_attempts: 6 is not a whole number from 1 to 5"),
        ("retry: {max_attempts: 2.5}", "retry.max_attempts: 2.5 is not a whole number"),
        ("retry: {max_attempts: yes}", "retry.max_attempts: True is not a whole number"),
        (
            "split: [{label: live, weight: -1}]",
            "split[0].weight: -1 is not a whole number from 0 to 1000000",
        ),
        ("hedge: {max_extra_load: 2%}", "hedge.max_extra_load: '2%' is no number above 0"),
        ("hedge: {max_extra_load: 0}", "hedge.max_extra_load: 0 is no number above 0, at most 1"),
        ("hedge: {max_extra_load: .nan}", "hedge.max_extra_load: nan is no number above 0"),
        ("shadow: [{version: 1, sample: 1.5}]", "shadow[0].sample: 1.5 is no number above 0"),
        ("shadow: [{version: 1, sample: on}]", "shadow[0].sample: True is no number above 0"),
        ("match: [{metadata: {tenant: 7}}]", "match[0].metadata: {'tenant': 7} is no mapping of"),
        ("match: [{metadata: acme}]", "match[0].metadata: 'acme' is no mapping of texts"),
        ("default: {version: 0}", "default.version: 0 is no version number"),
        ("default: {version: true}", "default.version: True is no version number"),
        ("default: {label: [a]}", "default.label: ['a'] is no text"),
        ("default: {label: off}", "default.label: False is no text"),
        ("sticky: [a]", "sticky: ['a'] is no text"),
        ("a: b: c", "this is no YAML in line 1"),
        ("default: {label: live", "this is no YAML in line 1"),
    ],
)
def test_complaints_name_the_field(text: str, complaint: str) -> None:
    with pytest.raises(InvalidRoute, match=re.escape(complaint)):
        parse(text)


def test_flow_and_block_style_are_the_same() -> None:
    assert parse(yaml.safe_dump(yaml.safe_load(WHOLE), default_flow_style=False)) == parse(WHOLE)


def test_the_same_route_is_always_written_alike() -> None:
    keys = [f"x-{letter}" for letter in "abcdefghijklmnop"]
    held = ", ".join(f"{key}: '*'" for key in keys)
    text = dump(parse(f"match: [{{metadata: {{{held}}}, version: 3}}]"))
    assert re.findall(r"x-[a-p]", text) == keys


@pytest.mark.parametrize("text", ["1.234567s", "3599.9999s", "86400.5s"])
def test_long_durations_are_written_in_full(text: str) -> None:
    route = parse(f"deadline: {text}")
    assert parse(dump(route)).deadline == route.deadline


def test_very_long_durations_are_written_as_they_are_read() -> None:
    parse(dump(parse("fallback: [{last_good: {key: x, max_age: 300h}}]")))


def test_a_duration_that_nobody_can_wait_is_refused() -> None:
    with pytest.raises(InvalidRoute, match="deadline"):
        parse("deadline: 99999999999999h")


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
def test_constants_that_are_not_finite_are_refused(number: str) -> None:
    with pytest.raises(InvalidRoute, match="is no finite number"):
        parse(f"fallback: [{{default: {{y: {number}}}}}]")


@pytest.mark.parametrize(
    "text",
    ["default: {label: live, version: 3}", "fallback: [{label: live, default: {y: 0.5}}]"],
)
def test_one_of_two_answers_is_refused(text: str) -> None:
    with pytest.raises(InvalidRoute):
        parse(text)
