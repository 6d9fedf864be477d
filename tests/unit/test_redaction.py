"""Redaction: what is dropped or hashed is nowhere in the event, and the rest is as it was."""

import hashlib
import hmac

import numpy as np
import pytest

from modelyard.client.inference import inputs_of, outputs_of
from modelyard.errors import InvalidArgument
from modelyard.events.event import event_of, facts_of
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.redaction import Redaction, parse
from tests.kit.events import call, feedback

SECRET = b"4111-1111-1111-1111"
KEY = b"key"


def texts(*values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def apply(tree, event, key=KEY):
    redact = Redaction(parse(tree), key)
    if event.HasField("call"):
        return event_of(redact(facts_of(event)))
    redact.truths(event)
    return event


def inputs(event):
    return inputs_of(oip.ModelInferRequest.FromString(event.call.request.inline))


def test_dropped_tensors_keep_their_shape_and_lose_their_contents():
    x = np.float32([[1.5, 2.5]])
    event = call(inputs={"card": texts(SECRET, b"x"), "age": x, "kept": x})
    event = apply([{"inputs": {"card": "drop", "age": "drop"}}], event)
    found = inputs(event)
    assert found["card"].tolist() == [b"", b""]
    np.testing.assert_array_equal(found["age"], np.zeros((1, 2)))
    np.testing.assert_array_equal(found["kept"], x)
    assert SECRET not in event.SerializeToString()
    assert event.call.request.redacted
    assert not event.call.response.redacted


def test_hashed_texts_can_be_told_again_and_not_read():
    event = call(inputs={"card": texts(SECRET)}, metadata=[("x-user", "anna"), ("x-other", "o")])
    event = apply([{"inputs": {"card": "hash"}, "metadata": {"X-User": "hash"}}], event)
    expected = hmac.new(KEY, SECRET, hashlib.sha256).hexdigest()
    assert inputs(event)["card"].tolist() == [expected.encode()]
    held = {entry.key: entry.text for entry in event.call.metadata}
    assert held == {"x-user": hmac.new(KEY, b"anna", hashlib.sha256).hexdigest(), "x-other": "o"}
    assert SECRET not in event.SerializeToString()
    assert b"anna" not in event.SerializeToString()


def test_outputs_metadata_and_truths():
    event = call(outputs={"why": texts(SECRET)}, metadata=[("authorization", "Bearer x")])
    event = apply([{"outputs": {"why": "drop"}, "metadata": {"authorization": "drop"}}], event)
    response = oip.ModelInferResponse.FromString(event.call.response.inline)
    assert outputs_of(response)["why"].tolist() == [b""]
    assert not event.call.metadata
    told = apply([{"outputs": {"why": "drop"}}], feedback(1, why=["secret"], y=[1]))
    assert list(told.feedback.truths) == ["y"]


def test_typed_contents_are_redacted_too():
    message = oip.ModelInferRequest(model_name="m")
    card = message.inputs.add(name="card", datatype="BYTES", shape=[1])
    card.contents.bytes_contents.append(SECRET)
    age = message.inputs.add(name="age", datatype="FP32", shape=[2])
    age.contents.fp32_contents.extend([40.5, 41.5])
    age.parameters["note"].string_param = "secret"
    event = call()
    event.call.request.inline = message.SerializeToString()
    event = apply([{"inputs": {"card": "hash", "age": "hash"}}], event)
    found = inputs(event)
    assert len(found["card"][0]) == 64
    assert found["age"].tolist() == [0, 0]
    assert b"secret" not in event.SerializeToString()


@pytest.mark.parametrize("payload", [b"\xff\xff\xff" + SECRET, b""])
def test_what_cannot_be_read_is_dropped_whole(payload):
    event = call(inputs={"card": texts(SECRET)})
    message = oip.ModelInferRequest.FromString(event.call.request.inline)
    if not payload:
        message.raw_input_contents[0] = b"\x63\0\0\0" + SECRET  # Longer than it is.
        payload = message.SerializeToString()
    event.call.request.inline = payload
    event = apply([{"inputs": {"card": "drop"}}], event)
    assert not event.call.request.inline
    assert SECRET not in event.SerializeToString()


def test_rules_hold_for_the_models_that_they_name_and_dropping_is_stronger():
    tree = [
        {"models": ["other-*"], "inputs": {"card": "drop"}},
        {"models": ["m", "n"], "inputs": {"card": "hash"}},
        {"inputs": {"age": "drop"}},
    ]
    event = apply(tree, call(inputs={"card": texts(SECRET)}))
    assert len(inputs(event)["card"][0]) == 64
    both = apply([*tree, {"inputs": {"card": "drop"}}], call(inputs={"card": texts(SECRET)}))
    assert inputs(both)["card"].tolist() == [b""]
    other = apply(tree, call(model="other-x", inputs={"card": texts(SECRET)}))
    assert inputs(other)["card"].tolist() == [b""]


def test_without_rules_nothing_changes():
    facts = facts_of(call(inputs={"card": texts(SECRET)}))
    assert Redaction((), b"")(facts) is facts


@pytest.mark.parametrize(
    ("tree", "complaint"),
    [
        ({}, "redaction: a list of rules"),
        ([3], "redaction[0]: a mapping"),
        ([{"input": {}}], "redaction[0].input: unknown"),
        ([{"inputs": {"card": "burn"}}], "redaction[0].inputs.card: 'burn' is neither"),
        ([{"inputs": ["card"]}], "redaction[0].inputs: a mapping"),
        ([{"models": "m"}], "redaction[0].models: a list"),
    ],
)
def test_wrong_rules_are_named(tree, complaint):
    with pytest.raises(InvalidArgument) as refused:
        parse(tree)
    assert complaint in refused.value.message


def test_to_hash_takes_a_key():
    with pytest.raises(InvalidArgument, match="takes a key"):
        Redaction(parse([{"inputs": {"card": "hash"}}]), b"")
