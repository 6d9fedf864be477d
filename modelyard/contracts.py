"""What the contracts say of their methods."""

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions


def repeatable(method: MethodDescriptor) -> bool:
    """Tells whether a call may be made more than once: its contract says NO_SIDE_EFFECTS."""
    level: int = method.GetOptions().idempotency_level
    return level == MethodOptions.NO_SIDE_EFFECTS
