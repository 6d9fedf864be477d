"""A host, or a gateway, of the local lane that does just what a test tells it, byte by byte."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from modelyard import frames
from modelyard.frames import Frame, Hello, Parser

PATIENCE = 30.0


class Peer:
    """One end of a connection: frames in, bytes out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._parser = Parser(1 << 30)
        self._frames: list[Frame] = []

    def write(self, *sent: bytes) -> None:
        """Sends bytes, be they frames or not."""
        self.writer.write(b"".join(sent))

    async def frame(self) -> Frame | None:
        """The next frame; None at the end of the connection."""
        async with asyncio.timeout(PATIENCE):
            while not self._frames:
                if not await self.feed(1 << 16):
                    return None
            return self._frames.pop(0)

    async def feed(self, most: int) -> bool:
        """Reads so many bytes at most; False at the end of the connection."""
        try:
            received = await self.reader.read(most)
        except ConnectionError:
            return False
        fed = received
        while fed:
            space = self._parser.space()
            count = min(len(space), len(fed))
            space[:count] = fed[:count]
            self._frames += self._parser.received(count)
            fed = fed[count:]
        return bool(received)

    async def expect(self, kind: int) -> Frame:
        """The next frame, which is of this type."""
        frame = await self.frame()
        assert frame is not None, "the connection has ended"
        assert frame.type == kind, frame
        return frame

    async def until_end(self) -> list[Frame]:
        """All that comes until the connection ends."""
        found = []
        while (frame := await self.frame()) is not None:
            found.append(frame)
        return found

    def close(self) -> None:
        """Ends the connection."""
        self.writer.close()


@asynccontextmanager
async def scripted_host(script: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[str]:
    """The address of a host that runs a script for each connection; then it is closed.

    What a script raises is raised at the end of the block.
    """
    running: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        task = asyncio.ensure_future(_run(script, peer))
        running.add(task)

    with tempfile.TemporaryDirectory(prefix="lane-") as short:
        path = Path(short) / "f.sock"
        server = await asyncio.start_unix_server(connected, str(path))
        try:
            yield f"unix:{path}"
        finally:
            server.close()
            for task in running:
                if not task.done():
                    task.cancel()
            for result in await asyncio.gather(*running, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result


async def _run(script: Callable[[Peer], Awaitable[None]], peer: Peer) -> None:
    try:
        await script(peer)
    finally:
        peer.close()


async def greeted(address: str, hello: Hello | None = None) -> Peer:
    """A connection to a host, as a gateway's; both have greeted."""
    reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    peer = Peer(reader, writer)
    peer.write(frames.hello(hello or Hello(1 << 30, who="a test")))
    await peer.expect(frames.HELLO)
    return peer
