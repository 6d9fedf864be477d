"""One call from the command line."""

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from modelyard.cli.options import Address, Json, Model
from modelyard.cli.output import print_json
from modelyard.client import Client, Inference
from modelyard.client.codec import Array, cast, datatype_of


def infer(
    name: Model,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=FILE.npy",
            help="An input, from a file or inline as JSON: X=[[1,2]]. Again for each.",
        ),
    ],
    version: Annotated[
        str | None, typer.Option("--version", help="A number or a label.  [default: the route's]")
    ] = None,
    output: Annotated[
        list[str] | None, typer.Option("--output", "-o", help="Only this output. Again for each.")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option("--deadline", min=0.001, help="Seconds.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE.npz", help="Write the outputs there.")
    ] = None,
    request_id: Annotated[
        str | None, typer.Option("--request-id", help="Your id of the request.")
    ] = None,
    json: Json = False,
    address: Address = None,
) -> None:
    """Call a model once; print its outputs and who served."""
    given = {key: _value(key, text) for key, text in map(_split, inputs)}
    with Client(address) as client:
        datatypes = {}
        if not all(isinstance(value, np.ndarray) for value in given.values()):
            # Only the model knows whether [1, 2] are floats.
            tensors = client.metadata(name, version).inputs
            datatypes = {tensor.name: tensor.datatype for tensor in tensors}
        answer = client.infer(
            name,
            {key: _array(value, datatypes.get(key)) for key, value in given.items()},
            version=version,
            outputs=output,
            deadline=deadline,
            request_id=request_id,
        )
    if save is not None:
        np.savez(save, allow_pickle=False, **_saveable(answer))
    if json:
        print_json(_as_dict(answer))
    else:
        _print(answer)


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals or not value:
        raise typer.BadParameter(f"{text!r} is not of the form NAME=FILE.npy", param_hint="--input")
    return key, value


def _is_inline(text: str) -> bool:
    return text[0] in '[-0123456789"' or text in ("true", "false")


def _value(key: str, text: str) -> Any:
    """The array of a file, or what inline JSON says."""
    if not _is_inline(text):
        return _load(text)
    try:
        return json_text.loads(text)
    except json_text.JSONDecodeError as error:
        raise typer.BadParameter(f"{key}: {error}", param_hint="--input") from None


def _array(value: Any, datatype: str | None) -> Array:
    # Of a name that the model does not have there is no datatype: the yard says what is wrong.
    if isinstance(value, np.ndarray) or datatype is None:
        return np.asarray(value)
    return cast(value, datatype)


def _load(path: str) -> Array:
    try:
        loaded = np.load(path, allow_pickle=False)
    except OSError as error:
        why = error.strerror or "is no .npy file"
        raise typer.BadParameter(f"{path}: {why}", param_hint="--input") from None
    except (ValueError, EOFError):
        raise typer.BadParameter(f"{path}: is no .npy file", param_hint="--input") from None
    if not isinstance(loaded, np.ndarray):
        raise typer.BadParameter(f"{path}: holds several arrays", param_hint="--input")
    return loaded


def _print(answer: Inference) -> None:
    for key, array in answer.items():
        print(f"{key}  {datatype_of(array)} {list(array.shape)}")
        print(np.array2string(_readable(array), threshold=100, edgeitems=4, precision=6))
    by = answer.served_by or "a server that does not say its version"
    attempt = f" ({answer.attempt})" if answer.attempt else ""
    print(f"served by {by}{attempt}, request {answer.request_id or 'without an id'}")


def _as_dict(answer: Inference) -> dict[str, Any]:
    return {
        "outputs": {
            key: {
                "datatype": datatype_of(array),
                "shape": list(array.shape),
                "data": _readable(array).tolist(),
            }
            for key, array in answer.items()
        },
        "served_by": None if answer.served_by is None else str(answer.served_by),
        "attempt": answer.attempt,
        "request_id": answer.request_id,
    }


def _readable(array: Array) -> Array:
    if datatype_of(array) == "BF16":
        return array.astype(np.float32)
    if array.dtype.kind != "O":
        return array
    texts = np.empty(array.shape, dtype=object)
    for index, element in np.ndenumerate(array):
        texts[index] = element.decode(errors="backslashreplace")
    return texts


def _saveable(answer: Inference) -> dict[str, Any]:
    """Without pickles: text as fixed-width strings, bfloat16 widened."""
    arrays = {key: _readable(array) for key, array in answer.items()}
    return {key: a.astype(str) if a.dtype.kind == "O" else a for key, a in arrays.items()}
