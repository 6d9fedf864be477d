"""The schema of what a version takes and gives, as a digest."""

import hashlib

from modelyard.catalog.model import Signature, Tensor


def schema_of(signature: Signature) -> str:
    """`sha256:` of a signature: equal for versions that take and give the same tensors.

    The digest is of one line a tensor, inputs first: direction, name, datatype, shape, and
    `optional` where it is.
    """
    lines = [_line("in", tensor) for tensor in signature.inputs]
    lines += [_line("out", tensor) for tensor in signature.outputs]
    return f"sha256:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"


def _line(direction: str, tensor: Tensor) -> str:
    # Symbols are names for the reader; what they bind is not part of the type.
    shape = ",".join(str(size) if isinstance(size, int) else "*" for size in tensor.shape)
    optional = " optional" if tensor.optional else ""
    return f"{direction} {tensor.name!r} {tensor.datatype} [{shape}]{optional}"
