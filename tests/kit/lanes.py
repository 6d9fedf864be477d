"""Endpoints of the gateway to a real host, by every lane."""

import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from gateway.call import Endpoint
from gateway.lanes.frame_lane import FrameEndpoint
from gateway.lanes.grpc_lane import GrpcEndpoint
from tests.kit.host import Host, start_host

LANES = ("grpc", "frames")
LARGEST = 128 << 20


@contextmanager
def framed_host(artifact: Path, folder: Path, **options: Any) -> Iterator[Host]:
    """A host that listens on both lanes; options as for `host_process`."""
    # The paths of pytest's folders are too long for a socket.
    with tempfile.TemporaryDirectory(prefix="lane-") as short:
        options["arguments"] = (*options.get("arguments", ()), "--frames", f"unix:{short}/f.sock")
        with start_host(artifact, folder, **options) as host:
            yield host


def frames_address(host: Host) -> str:
    """Where a host takes frames."""
    return next(s["frames_address"] for s in host.stages if s["stage"] == "serving")


@asynccontextmanager
async def endpoint(host: Host, lane: str, largest: int = LARGEST) -> AsyncIterator[Endpoint]:
    """An endpoint to a host over one lane, and no other."""
    made: Endpoint
    if lane == "grpc":
        made = GrpcEndpoint(host.address, largest)
    else:
        made = FrameEndpoint(frames_address(host), largest, None, random.Random(1))
    try:
        yield made
    finally:
        await made.close()
