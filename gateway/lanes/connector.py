"""Chooses the lane to each host."""

import random
from collections.abc import Callable
from typing import Literal, TypeAlias

from gateway.call import Endpoint
from gateway.lanes.frame_lane import FrameEndpoint
from gateway.lanes.grpc_lane import GrpcEndpoint
from modelyard.catalog import Host

Lane: TypeAlias = Literal["auto", "grpc", "frames"]


def connector(lane: Lane, max_message_bytes: int) -> Callable[[Host], Endpoint]:
    """Opens endpoints to hosts.

    Args:
        lane: `grpc`, or `frames`, or `auto`: frames where the host's socket can be connected to,
            and gRPC while it cannot. A host that announces no frames is asked by gRPC.
        max_message_bytes: Of one request or response.
    """
    chance = random.Random()

    def connect(host: Host) -> Endpoint:
        def by_grpc() -> Endpoint:
            return GrpcEndpoint(host.address, max_message_bytes)

        if lane == "grpc" or not host.frames_address:
            return by_grpc()
        beside = by_grpc if lane == "auto" else None
        return FrameEndpoint(host.frames_address, max_message_bytes, beside, chance)

    return connect
