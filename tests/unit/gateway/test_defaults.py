"""Answers that no host gives: constants by signature, and what was last good by key."""

from datetime import UTC, datetime, timedelta

import pytest

from gateway.call import Call
from gateway.defaults import MOST_BYTES, Defaults
from gateway.plan import Attempt, Kind
from modelyard.catalog import (
    Catalog,
    Constant,
    LastGood,
    Model,
    Signature,
    Tensor,
    Version,
)
from modelyard.catalog.model import frozen
from modelyard.catalog.route import Json
from modelyard.client.codec import decode
from modelyard.errors import InvalidRoute, ModelyardError, VersionNotServing
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.names import ModelName, VersionName

V1, V2 = VersionName("digits", 1), VersionName("digits", 2)


class Clock:
    """Tells the time that it is set to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def catalogue() -> Catalog:
    created = datetime(2026, 1, 1, tzinfo=UTC)
    outputs = {
        V1: Tensor("y", "FP32", ("n", 2)),
        V2: Tensor("label", "BYTES", ("n",)),
    }
    versions = {
        v.number: Version(v, "sha256:0", (), Signature((), (tensor,)), created)
        for v, tensor in outputs.items()
    }
    return Catalog(1, frozen({"digits": Model("digits", created, frozen(versions))}))


@pytest.fixture
def defaults(clock: Clock) -> Defaults:
    return Defaults(catalogue, clock)


def request(*shape: int) -> bytes:
    tensor = oip.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=shape)
    return oip.ModelInferRequest(model_name="digits", inputs=[tensor]).SerializeToString()


def call(
    *metadata: tuple[str, str | bytes], payload: bytes = b"", target: VersionName = V1
) -> Call:
    return Call("digits", "", payload, 1.0, "r1", metadata, target=target)


def constant(**outputs: Json) -> Attempt:
    return Attempt(Kind.DEFAULT, None, answer=Constant(outputs))


def last_good(key: str = "user", max_age: float = 600.0) -> Attempt:
    return Attempt(Kind.DEFAULT, None, answer=LastGood(key, timedelta(seconds=max_age)))


# Constants.


@pytest.mark.parametrize("rows", [1, 3])
def test_a_constant_answers_each_row_of_the_request(defaults: Defaults, rows: int) -> None:
    payload, by = defaults.answer(call(payload=request(rows, 4)), constant(y=[0.25, 0.75]))
    message = oip.ModelInferResponse.FromString(payload)
    assert by == ModelName("digits")
    assert message.model_name == "digits"
    assert list(message.outputs[0].shape) == [rows, 2]
    array = decode("FP32", [rows, 2], message.raw_output_contents[0])
    assert array.tolist() == [[0.25, 0.75]] * rows


def test_a_request_without_inputs_is_one_row(defaults: Defaults) -> None:
    payload, _ = defaults.answer(call(), constant(y=[0.25, 0.75]))
    assert list(oip.ModelInferResponse.FromString(payload).outputs[0].shape) == [1, 2]


def test_a_constant_follows_the_version_that_was_chosen(defaults: Defaults) -> None:
    payload, _ = defaults.answer(call(payload=request(2), target=V2), constant(label="none"))
    message = oip.ModelInferResponse.FromString(payload)
    assert decode("BYTES", [2], message.raw_output_contents[0]).tolist() == [b"none"] * 2
    with pytest.raises(InvalidRoute, match="output 'label': the model has y"):
        defaults.answer(call(), constant(label="none"))


@pytest.mark.parametrize("value", [0.5, [0.5], [0.5, "half"]])
def test_a_constant_that_does_not_fit_is_the_routes_fault(defaults: Defaults, value: Json) -> None:
    with pytest.raises(InvalidRoute, match="output 'y'"):
        defaults.answer(call(), constant(y=value))


@pytest.mark.parametrize("claimed", [2**62, -1])
def test_a_request_that_claims_too_many_rows_is_refused(defaults: Defaults, claimed: int) -> None:
    with pytest.raises(ModelyardError):
        defaults.answer(call(payload=request(claimed, 4)), constant(y=[0.25, 0.75]))


# What was last good.


def test_the_last_good_answer_for_the_same_value(defaults: Defaults) -> None:
    for user, payload in (("a", b"old"), ("b", b"other"), ("a", b"new")):
        defaults.remember(call(("user", user)), "user", payload, V1)
    assert defaults.answer(call(("user", "a")), last_good()) == (b"new", V1)
    assert defaults.answer(call(("user", "b"), ("more", "x")), last_good()) == (b"other", V1)
    with pytest.raises(VersionNotServing, match="no earlier answer is remembered"):
        defaults.answer(call(("user", "c")), last_good())


def test_who_answered_then_is_said_to_answer_now(defaults: Defaults) -> None:
    defaults.remember(call(("user", "a"), target=V1), "user", b"!", V2)
    assert defaults.answer(call(("user", "a"), target=V1), last_good()) == (b"!", V2)


def test_models_have_their_own(defaults: Defaults) -> None:
    defaults.remember(call(("user", "a")), "user", b"!", V1)
    other = Call("other", "", b"", 1.0, "r1", (("user", "a"),))
    with pytest.raises(VersionNotServing):
        defaults.answer(other, last_good())


@pytest.mark.parametrize(
    "metadata", [(), (("user", ""),), (("user", b"a"),), (("tenant", "a"),)], ids=repr
)
def test_a_call_without_the_key_is_not_remembered(defaults: Defaults, metadata: tuple) -> None:
    defaults.remember(call(*metadata), "user", b"!", V1)
    assert not defaults._kept
    with pytest.raises(VersionNotServing):
        defaults.answer(call(*metadata), last_good())


def test_old_answers_are_not_given(defaults: Defaults, clock: Clock) -> None:
    defaults.remember(call(("user", "a")), "user", b"!", V1)
    clock.now += 60.0
    assert defaults.answer(call(("user", "a")), last_good(max_age=60.0)) == (b"!", V1)
    clock.now += 0.1
    with pytest.raises(VersionNotServing):
        defaults.answer(call(("user", "a")), last_good(max_age=60.0))
    # Another route's patience is another matter.
    assert defaults.answer(call(("user", "a")), last_good(max_age=61.0)) == (b"!", V1)
    defaults.remember(call(("user", "a")), "user", b"again", V1)
    assert defaults.answer(call(("user", "a")), last_good(max_age=60.0)) == (b"again", V1)


def test_bytes_are_bounded(defaults: Defaults) -> None:
    size = MOST_BYTES // 16
    payload = bytes(size)
    for user in range(20):
        defaults.remember(call(("user", str(user))), "user", payload, V1)
        assert defaults._bytes == sum(len(held) for _, held, _ in defaults._kept.values())
        assert defaults._bytes <= MOST_BYTES
    # The oldest went first.
    assert [value for _, _, value in defaults._kept] == [str(user) for user in range(4, 20)]


def test_an_answer_that_would_fill_everything_is_not_kept(defaults: Defaults) -> None:
    defaults.remember(call(("user", "a")), "user", bytes(MOST_BYTES // 16 + 1), V1)
    assert (len(defaults._kept), defaults._bytes) == (0, 0)


def test_a_new_answer_takes_the_place_of_the_old(defaults: Defaults) -> None:
    for size in (1000, 10, 500):
        defaults.remember(call(("user", "a")), "user", bytes(size), V1)
        assert (len(defaults._kept), defaults._bytes) == (1, size)


def test_what_was_given_last_stays_longest(
    defaults: Defaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.defaults.MOST", 3)
    for user in ("a", "b", "c", "a", "d"):
        defaults.remember(call(("user", user)), "user", user.encode(), V1)
    assert [value for _, _, value in defaults._kept] == ["c", "a", "d"]
    assert defaults._bytes == 3


def test_the_same_value_of_another_key_is_somebody_else(defaults: Defaults) -> None:
    defaults.remember(call(("user", "7")), "user", b"of user 7", V1)
    with pytest.raises(VersionNotServing):
        defaults.answer(call(("tenant", "7")), last_good("tenant"))
