"""The Open Inference Protocol's REST form: JSON to and from the messages of its gRPC form.

Protobuf's own JSON is another: tensors there are typed contents or base64, int64 are strings and
parameters are wrapped; REST has flat or nested `data`, numbers and plain values.
Specification: https://github.com/kserve/open-inference-protocol
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import numpy as np

from modelyard.client.codec import cast, decode, encode
from modelyard.errors import Code, InvalidArgument, InvalidTensor, MessageTooLarge, ModelyardError
from modelyard.inference.v2 import open_inference_pb2 as pb

Json: TypeAlias = Mapping[str, Any]

# As https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto maps them.
_STATUS: Final = {
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}

# What JSON has for a datatype; numbers for those that are not here.
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {"BOOL": (bool,), "BYTES": (str,)} | {
    f"{sign}{bits}": (int,) for sign in ("INT", "UINT") for bits in (8, 16, 32, 64)
}
_DEEPEST: Final = 32


def request(model: str, version: str, body: bytes) -> bytes:
    """A serialized `ModelInferRequest`.

    Args:
        model: Of the path.
        version: Of the path; empty for none.
        body: JSON: `inputs`, each with `name`, `shape`, `datatype` and `data`, flat or nested in
            row-major order; `id`, `parameters` and `outputs` where wanted.

    Raises:
        InvalidArgument: The body is not such JSON.
        InvalidTensor: Data do not fit their datatype or shape.
    """
    try:
        held = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from None
    if not isinstance(held, dict):
        raise InvalidArgument("the body is not a JSON object")
    try:
        return _message(model, version, held)
    except UnicodeEncodeError:
        # JSON may name half of a surrogate pair, which is no text.
        raise InvalidArgument("the body has a text that is not Unicode") from None


def _message(model: str, version: str, held: Json) -> bytes:
    message = pb.ModelInferRequest(model_name=model, model_version=version)
    message.id = _of(held, "id", str, "")
    _parameters(message.parameters, held)
    for tensor in _objects(held, "inputs"):
        name = _of(tensor, "name", str)
        into = message.inputs.add(name=name, datatype=_of(tensor, "datatype", str))
        into.shape.extend(_shape(tensor, name))
        _parameters(into.parameters, tensor)
        if "binary_data_size" in into.parameters:
            raise InvalidArgument(
                f"input {name!r}: binary data are taken by gRPC alone", field=name
            )
        message.raw_input_contents.append(_raw(tensor, into.datatype, into.shape, name))
    for output in _objects(held, "outputs", required=False):
        wanted = message.outputs.add(name=_of(output, "name", str))
        _parameters(wanted.parameters, output)
    serialized: bytes = message.SerializeToString()
    return serialized


def response(payload: bytes) -> bytes:
    """A serialized `ModelInferResponse` as JSON; numbers that JSON has not are NaN and Infinity."""
    message = pb.ModelInferResponse.FromString(payload)
    told: dict[str, Any] = {"model_name": message.model_name}
    told["model_version"] = message.model_version
    if message.id:
        told["id"] = message.id
    if message.parameters:
        told["parameters"] = _plain(message.parameters)
    told["outputs"] = []
    for tensor, raw in zip(message.outputs, message.raw_output_contents, strict=True):
        array = decode(tensor.datatype, tensor.shape, raw).reshape(-1)
        data = (
            [element.decode("utf-8", "replace") for element in array]
            if tensor.datatype == "BYTES"
            else array.astype(np.float32).tolist()
            if tensor.datatype == "BF16"
            else array.tolist()
        )
        shown: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype}
        shown |= {"shape": list(tensor.shape), "data": data}
        if tensor.parameters:
            shown["parameters"] = _plain(tensor.parameters)
        told["outputs"].append(shown)
    return json.dumps(told).encode()


def metadata(message: pb.ModelMetadataResponse) -> bytes:
    """A model's metadata as JSON."""

    def tensors(of: Sequence[Any]) -> list[Json]:
        return [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in of]

    told = {
        "name": message.name,
        "versions": list(message.versions),
        "platform": message.platform,
        "inputs": tensors(message.inputs),
        "outputs": tensors(message.outputs),
    }
    return json.dumps(told).encode()


def error(failure: ModelyardError) -> tuple[int, bytes]:
    """The HTTP status of an error, and its body."""
    status = _STATUS.get(failure.code, int(HTTPStatus.INTERNAL_SERVER_ERROR))
    if isinstance(failure, MessageTooLarge):
        status = int(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return status, json.dumps({"error": failure.message, "reason": failure.reason}).encode()


def _of(held: Json, key: str, kind: type[Any], default: Any = None) -> Any:
    value = held.get(key, default)
    if not isinstance(value, kind):
        raise InvalidArgument(f"{key!r} is missing or of a wrong type", field=key)
    return value


def _objects(held: Json, key: str, required: bool = True) -> list[Json]:
    values = _of(held, key, list, None if required else [])
    if not all(isinstance(value, dict) for value in values):
        raise InvalidArgument(f"{key!r} holds what is no object", field=key)
    return list(values)


def _shape(tensor: Json, name: str) -> list[int]:
    shape = _of(tensor, "shape", list)
    if not all(type(size) is int and 0 <= size < 1 << 31 for size in shape):
        raise InvalidTensor(f"input {name!r}: shape {shape} is none")
    return list(shape)


def _raw(tensor: Json, datatype: str, shape: Sequence[int], name: str) -> bytes:
    data = _of(tensor, "data", list)
    flat = list(_flat(data)) if any(isinstance(value, list) for value in data) else data
    if len(flat) != math.prod(shape):
        raise InvalidTensor(
            f"input {name!r}: {len(flat)} elements do not fill the shape {list(shape)}"
        )
    kinds = _KINDS.get(datatype, (int, float))
    for value in flat:
        # numpy would take "1" for a number, true for 1, and 1.5 for 1.
        if type(value) not in kinds:
            raise InvalidTensor(f"input {name!r}: {value!r} is not {datatype}")
    try:
        with np.errstate(over="raise"):
            return encode(cast(flat, datatype))
    except (FloatingPointError, UnicodeEncodeError) as fault:
        # Too large for the datatype; half of a surrogate pair.
        raise InvalidTensor(f"input {name!r}: not {datatype}: {fault}") from None


def _flat(data: list[Any], depth: int = 1) -> Iterator[Any]:
    if depth > _DEEPEST:
        raise InvalidTensor(f"data are nested deeper than {_DEEPEST}")
    for value in data:
        if isinstance(value, list):
            yield from _flat(value, depth + 1)
        else:
            yield value


def _parameters(into: Any, held: Json) -> None:
    for name, value in _of(held, "parameters", dict, {}).items():
        match value:
            case bool():
                into[name].bool_param = value
            case int() if -(1 << 63) <= value < 1 << 63:
                into[name].int64_param = value
            case float():
                into[name].double_param = value
            case str():
                into[name].string_param = value
            case _:
                raise InvalidArgument(f"parameter {name!r}: {value!r} is none", field=name)


def _plain(parameters: Any) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
        for name, value in parameters.items()
    }
