"""Constant answers: a route's values, as the tensors that a model's signature asks for."""

import math

import numpy as np
from numpy.typing import NDArray

from modelyard.catalog.model import Signature, Tensor
from modelyard.catalog.route import Constant, Json
from modelyard.client.codec import cast, encode
from modelyard.errors import InvalidRoute, InvalidTensor
from modelyard.inference.v2 import open_inference_pb2 as oip

# A request says how many rows it has, and a constant is made for each: no more than a request of
# that many rows could have weighed.
MOST_BYTES = 64 << 20


def response(model: str, constant: Constant, signature: Signature, rows: int) -> bytes:
    """A serialized `ModelInferResponse` that holds the constant.

    Args:
        model: Named in the response.
        constant: The values.
        signature: Of the version that would have answered.
        rows: The first dimension of the request's first input.

    Raises:
        InvalidRoute: A value does not fit the signature; the text names the output.
        InvalidTensor: The request claims a number of rows that no answer can have.
    """
    known = {tensor.name: tensor for tensor in signature.outputs}
    message = oip.ModelInferResponse(model_name=model)
    for name, value in constant.outputs.items():
        tensor = known.get(name)
        if tensor is None:
            raise InvalidRoute(f"output {name!r}: the model has {', '.join(known)}", output=name)
        array = _fitted(tensor, value, rows)
        message.outputs.add(name=name, datatype=tensor.datatype, shape=array.shape)
        message.raw_output_contents.append(_encoded(tensor, array))
    return message.SerializeToString()


def _fitted(tensor: Tensor, value: Json, rows: int) -> NDArray[np.generic]:
    _check_kind(tensor, value)
    try:
        array = cast(value, tensor.datatype)
    except InvalidTensor as error:
        raise _unfit(tensor, error.message) from None
    shape = tensor.shape
    if len(array.shape) == len(shape) - 1 and isinstance(shape[0], str):
        if not 0 <= rows * max(array.nbytes, 1) <= MOST_BYTES:
            raise InvalidTensor(f"the request's first dimension is {rows}")
        array = np.repeat(array[np.newaxis], rows, axis=0)
    fits = len(array.shape) == len(shape) and all(
        isinstance(wanted, str) or wanted == given
        for wanted, given in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise _unfit(tensor, f"its shape is {list(array.shape)}, the model's {list(shape)}")
    return array


def _check_kind(tensor: Tensor, value: Json) -> None:
    """Refuses what numpy would make fit: a fraction cut off, a text that is true."""
    match value:
        case list():
            for item in value:
                _check_kind(tensor, item)
            return
        case bool():
            fits = tensor.datatype == "BOOL"
        case str():
            fits = tensor.datatype == "BYTES"
        case _:
            whole = tensor.datatype.lstrip("U").startswith("INT")
            fits = tensor.datatype not in ("BYTES", "BOOL") and (
                not whole or not math.isfinite(value) or float(value).is_integer()
            )
    if not fits:
        raise _unfit(tensor, f"not {tensor.datatype}: {value!r}")


def _encoded(tensor: Tensor, array: NDArray[np.generic]) -> bytes:
    if tensor.datatype == "BF16" and array.dtype == np.float32:
        # Where numpy knows no bfloat16: the upper half of a float32, rounded to even.
        bits = np.ascontiguousarray(array).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return rounded.astype("<u2").tobytes()
    try:
        return encode(array)
    except InvalidTensor as error:
        raise _unfit(tensor, error.message) from None


def _unfit(tensor: Tensor, why: str) -> InvalidRoute:
    return InvalidRoute(f"output {tensor.name!r}: {why}", output=tensor.name)
