"""One inference: the request that is sent and the answer that comes back."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from modelyard.client.codec import Array, datatype_of, decode, decode_typed, encode
from modelyard.client.steps import Reply
from modelyard.errors import InvalidArgument, InvalidTensor, ModelyardError
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.metadata import ATTEMPT, REQUEST_ID, SERVED_BY
from modelyard.names import VersionName

# Asks a stream for status codes in place of texts.
REAL_ERRORS = ("triton_grpc_error", "true")

VersionLike: TypeAlias = int | str | None
Parameter: TypeAlias = bool | int | float | str

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@dataclass(frozen=True, slots=True, eq=False)
class Inference(Mapping[str, Array]):
    """The outputs of one call, by name: `answer["probabilities"]`.

    Arrays are read-only views of the response; copy one to write into it. BYTES outputs are object
    arrays of `bytes`.

    Attributes:
        outputs: The arrays by name, in the model's order.
        served_by: The version that answered, such as `models/digits/versions/3`; None for a
            constant of the route, and from a server that does not say its version.
        attempt: Which attempt answered: `primary`, `retry`, `hedge`, `fallback`, `rendezvous`,
            `default`; empty where unknown.
        request_id: The caller's id of the request, or the gateway's where the caller gave none.
        parameters: What the server said beside the tensors.
    """

    outputs: Mapping[str, Array]
    served_by: VersionName | None
    attempt: str
    request_id: str
    parameters: Mapping[str, Parameter]

    @property
    def version(self) -> int | None:
        """The number of the version that answered."""
        return None if self.served_by is None else self.served_by.number

    def __getitem__(self, name: str) -> Array:
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)


def request(
    model: str,
    inputs: Mapping[str, ArrayLike],
    *,
    version: VersionLike = None,
    outputs: Sequence[str] | None = None,
    request_id: str | None = None,
    parameters: Mapping[str, Parameter] | None = None,
) -> oip.ModelInferRequest:
    """The message of one call; raises InvalidTensor where an array has no datatype."""
    message = oip.ModelInferRequest(
        model_name=model, model_version=version_text(version), id=request_id or ""
    )
    for name, values in inputs.items():
        array = np.asarray(values)
        try:
            message.raw_input_contents.append(encode(array))
        except InvalidTensor as error:
            raise InvalidTensor(f"input {name!r}: {error.message}", tensor=name) from None
        message.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
    for name in outputs or ():
        message.outputs.add(name=name)
    for key, value in (parameters or {}).items():
        _set_parameter(message.parameters[key], key, value)
    return message


def version_text(version: VersionLike) -> str:
    """A version as requests name it: a number, a label, or nothing."""
    return "" if version is None else str(version)


def answer(reply: Reply[oip.ModelInferResponse]) -> Inference:
    """Reads a response; raises InvalidTensor where its bytes do not fit its shapes."""
    message = reply.message
    return Inference(
        outputs=outputs_of(message),
        served_by=_served_by(message, reply.trailing),
        attempt=reply.trailing.get(ATTEMPT, ""),
        request_id=message.id or reply.trailing.get(REQUEST_ID, ""),
        parameters={key: _parameter(value) for key, value in message.parameters.items()},
    )


def inputs_of(message: oip.ModelInferRequest) -> dict[str, Array]:
    """The arrays of a request, by name; raises InvalidTensor where bytes do not fit shapes."""
    return _arrays(message.inputs, message.raw_input_contents)


def outputs_of(message: oip.ModelInferResponse) -> dict[str, Array]:
    """The arrays of a response, by name; raises InvalidTensor where bytes do not fit shapes."""
    return _arrays(message.outputs, message.raw_output_contents)


def _arrays(tensors: Iterable[Any], raw: Sequence[bytes]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(tensors):
        if raw:
            if index >= len(raw):
                raise InvalidTensor(f"{tensor.name!r} has no raw contents", tensor=tensor.name)
            arrays[tensor.name] = decode(tensor.datatype, tensor.shape, raw[index])
        else:
            field = _CONTENTS.get(tensor.datatype, "bytes_contents")
            elements = getattr(tensor.contents, field)
            arrays[tensor.name] = decode_typed(tensor.datatype, tensor.shape, elements)
    return arrays


def check(message: oip.ModelStreamInferResponse) -> None:
    """Raises for a stream's error from a server that knows only texts."""
    if message.error_message:
        raise ModelyardError(message.error_message)


def _served_by(message: oip.ModelInferResponse, trailing: Mapping[str, str]) -> VersionName | None:
    if named := trailing.get(SERVED_BY):
        # A default of the model's route names the model alone.
        return VersionName.parse(named) if "/versions/" in named else None
    number = message.model_version
    return VersionName(message.model_name, int(number)) if number.isdecimal() else None


def check_parameter(key: str, value: Parameter) -> None:
    """Raises InvalidArgument for a value of a type that parameters do not have."""
    if not isinstance(value, bool | int | float | str):
        raise InvalidArgument(
            f"parameter {key!r} is a bool, int, float or str, not {type(value).__name__}"
        )


def _set_parameter(target: oip.InferParameter, key: str, value: Parameter) -> None:
    check_parameter(key, value)
    match value:
        case bool():
            target.bool_param = value
        case int():
            target.int64_param = value
        case float():
            target.double_param = value
        case str():
            target.string_param = value


def _parameter(value: oip.InferParameter) -> Parameter:
    which = value.WhichOneof("parameter_choice")
    result: Parameter = "" if which is None else getattr(value, which)
    return result
