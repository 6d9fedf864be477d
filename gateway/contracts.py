"""The contracts that callers find at the gateway's address."""

from typing import Final

from google.protobuf.descriptor import FileDescriptor

from gateway.control import FILES, SHADOW_FILES
from modelyard.gateway.v1 import gateway_service_pb2
from modelyard.inference.v2 import open_inference_pb2

CONTRACTS: Final[tuple[FileDescriptor, ...]] = (
    open_inference_pb2.DESCRIPTOR,
    gateway_service_pb2.DESCRIPTOR,
    *FILES,
)


def services(shadow: bool) -> tuple[str, ...]:
    """The full names of the services, those of the shadow service included where there is one."""
    files = (*CONTRACTS, *(SHADOW_FILES if shadow else ()))
    return tuple(s.full_name for file in files for s in file.services_by_name.values())
