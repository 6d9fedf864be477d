"""The envelope reader agrees with protobuf on every message, and refuses what protobuf refuses."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from gateway import envelope
from modelyard.errors import InvalidArgument
from modelyard.inference.v2 import open_inference_pb2 as oip

texts = st.text(max_size=200)
parameters = st.dictionaries(
    texts,
    st.one_of(
        st.builds(lambda v: oip.InferParameter(bool_param=v), st.booleans()),
        st.builds(lambda v: oip.InferParameter(int64_param=v), st.integers(-(2**63), 2**63 - 1)),
        st.builds(lambda v: oip.InferParameter(string_param=v), texts),
        st.builds(lambda v: oip.InferParameter(double_param=v), st.floats(allow_nan=False)),
        st.builds(lambda v: oip.InferParameter(uint64_param=v), st.integers(0, 2**64 - 1)),
    ),
    max_size=4,
)
requests = st.builds(
    lambda model, version, identity, held, raw: oip.ModelInferRequest(
        model_name=model,
        model_version=version,
        id=identity,
        parameters=held,
        inputs=[oip.ModelInferRequest.InferInputTensor(name="x", shape=[1, 2])] * len(raw),
        raw_input_contents=raw,
    ),
    texts,
    texts,
    texts,
    parameters,
    st.lists(st.binary(max_size=400), max_size=3),
)


@given(requests)
def test_reads_what_protobuf_reads(request: oip.ModelInferRequest) -> None:
    head = envelope.read(request.SerializeToString())
    assert (head.model, head.version, head.id) == (
        request.model_name,
        request.model_version,
        request.id,
    )
    expected = {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in request.parameters.items()
    }
    assert (head.parameters or {}) == expected


@given(requests, st.data())
def test_last_one_wins_in_any_order(request: oip.ModelInferRequest, data: st.DataObject) -> None:
    other = data.draw(requests)
    joined = request.SerializeToString() + other.SerializeToString()
    expected = oip.ModelInferRequest.FromString(joined)
    head = envelope.read(joined)
    assert (head.model, head.version, head.id) == (
        expected.model_name,
        expected.model_version,
        expected.id,
    )


@given(st.binary(max_size=64))
def test_never_accepts_a_head_that_protobuf_reads_otherwise(data: bytes) -> None:
    try:
        head = envelope.read(data)
    except InvalidArgument:
        return
    try:
        expected = oip.ModelInferRequest.FromString(data)
    except DecodeError:
        return  # A tensor is malformed: the host says so.
    assert (head.model, head.version, head.id) == (
        expected.model_name,
        expected.model_version,
        expected.id,
    )


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x0a\x05ab",
        b"\xff" * 12,
        b"\x0a\x02\xff\xfe",
        b"\x0b",
        b"\x39\x00",
        b"\x22\x02\x0a\x09",
    ],
)
def test_refuses_what_is_no_message(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="not a ModelInferRequest"):
        envelope.read(data)


def test_cost_does_not_grow_with_the_tensors() -> None:
    """Counted in bytes looked at: the reader never slices a tensor."""

    class Counting(bytes):
        looked_at = 0

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            held = bytes.__getitem__(self, index)
            Counting.looked_at += len(held) if isinstance(held, bytes) else 1
            return held

    request = oip.ModelInferRequest(model_name="m", raw_input_contents=[b"\0" * 1_000_000])
    envelope.read(Counting(request.SerializeToString()))
    assert Counting.looked_at < 32


def test_stream_answers_read_as_protobuf() -> None:
    answer = oip.ModelInferResponse(model_name="m", id="7", raw_output_contents=[b"x" * 300])
    wrapped = oip.ModelStreamInferResponse.FromString(
        envelope.stream_answer(answer.SerializeToString())
    )
    assert wrapped.infer_response == answer
    failed = oip.ModelStreamInferResponse.FromString(envelope.stream_error("no such model", "7"))
    assert failed.error_message == "no such model"
    assert failed.infer_response.id == "7"
