"""Constant answers: a route's values, as the tensors that a model's signature asks for."""

import numpy as np
from numpy.typing import NDArray

from modelyard.catalog.model import Signature, Tensor
from modelyard.catalog.route import Constant, Json
from modelyard.client.codec import cast, encode
from modelyard.errors import InvalidRoute, InvalidTensor
from modelyard.inference.v2 import open_inference_pb2 as oip


def response(model: str, constant: Constant, signature: Signature, rows: int) -> bytes:
    """A serialized `ModelInferResponse` that holds the constant.

    Args:
        model: Named in the response.
        constant: The values.
        signature: Of the version that would have answered.
        rows: The first dimension of the request's first input.

    Raises:
        InvalidRoute: A value does not fit the signature; the text names the output.
    """
    known = {tensor.name: tensor for tensor in signature.outputs}
    message = oip.ModelInferResponse(model_name=model)
    for name, value in constant.outputs.items():
        tensor = known.get(name)
        if tensor is None:
            raise InvalidRoute(f"output {name!r}: the model has {', '.join(known)}", output=name)
        array = _fitted(tensor, value, rows)
        message.outputs.add(name=name, datatype=tensor.datatype, shape=array.shape)
        message.raw_output_contents.append(encode(array))
    return message.SerializeToString()


def _fitted(tensor: Tensor, value: Json, rows: int) -> NDArray[np.generic]:
    try:
        array = cast(value, tensor.datatype)
    except InvalidTensor as error:
        raise InvalidRoute(f"output {tensor.name!r}: {error.message}", output=tensor.name) from None
    shape = tensor.shape
    if len(array.shape) == len(shape) - 1 and isinstance(shape[0], str):
        array = np.repeat(array[np.newaxis], rows, axis=0)
    fits = len(array.shape) == len(shape) and all(
        isinstance(wanted, str) or wanted == given
        for wanted, given in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise InvalidRoute(
            f"output {tensor.name!r}: its shape is {list(array.shape)}, the model's {list(shape)}",
            output=tensor.name,
        )
    return array
