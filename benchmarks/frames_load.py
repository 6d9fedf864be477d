"""A client that costs little: HTTP/2 by hand, for servers that answer more than grpc.aio can ask.

One connection, a closed loop, requests that are made once and frames that are told apart by their
heads alone. It reads one order from standard input and writes one line of JSON. A call that an
error ended brings no message; everything else is taken as it comes.
"""

import json
import socket
import struct
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.load import METHOD, Order, Sample

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LARGEST = (1 << 31) - 1
# What was read is given back to the sender's window from so many bytes on.
_GIVE_BACK = 1 << 24
_FRAME = 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(sent: dict[str, str]) -> bytes:
    """A block of headers that needs no table: each as it is, not to be remembered."""
    block = b""
    for name, value in sent.items():
        assert len(name) < 127 and len(value) < 127, "a length in one byte"
        block += b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return block


class Client:
    """One connection.

    Args:
        address: `host:port`.
        payload: The serialized request.
    """

    def __init__(self, address: str, payload: bytes) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 20.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        told = struct.pack(">HIHI", 1, 0, 4, _LARGEST)
        window = struct.pack(">I", _LARGEST - 65_535)
        self._socket.sendall(_PREFACE + frame(_SETTINGS, 0, 0, told) + frame(_WINDOW, 0, 0, window))
        self._block = headers(
            {
                **{":method": "POST", ":scheme": "http", ":path": METHOD, ":authority": address},
                **{"content-type": "application/grpc", "te": "trailers", "grpc-timeout": "30S"},
            }
        )
        self._body = b"\0" + struct.pack(">I", len(payload)) + payload
        assert len(self._body) <= _FRAME, "one frame a request"
        self._next = 1
        self._rest = b""
        self._began: dict[int, float] = {}
        self._answered: set[int] = set()
        self._read = 0
        self.times: list[float] = []
        self.errors = 0

    def run(self, in_flight: int, seconds: float) -> float:
        """Calls in a closed loop; gives how many seconds it took until the last had ended."""
        began = time.perf_counter()
        end = began + seconds
        self._socket.sendall(b"".join(self._request(began) for _ in range(in_flight)))
        while self._began:
            data = self._socket.recv(1 << 18)
            if not data:
                raise ConnectionResetError("closed by the server")
            now = time.perf_counter()
            out = self._take(data, now, now < end)
            if out:
                self._socket.sendall(out)
        return time.perf_counter() - began

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def _request(self, now: float) -> bytes:
        stream, self._next = self._next, self._next + 2
        self._began[stream] = now
        head = frame(_HEADERS, _END_HEADERS, stream, self._block)
        return head + frame(_DATA, _END_STREAM, stream, self._body)

    def _take(self, data: bytes, now: float, go_on: bool) -> bytes:
        """Takes frames; gives what is to be sent."""
        buffer, at, out = self._rest + data, 0, []
        while len(buffer) - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            kind, flags, stream = struct.unpack_from(">BBI", buffer, at + 3)
            if len(buffer) - at < 9 + size:
                break
            payload = buffer[at + 9 : at + 9 + size] if kind in (_SETTINGS, _PING) else b""
            at += 9 + size
            if kind == _DATA:
                self._read += size
                if size:
                    self._answered.add(stream)
            elif kind == _SETTINGS and not flags & _ACK:
                out.append(frame(_SETTINGS, _ACK, 0))
            elif kind == _PING and not flags & _ACK:
                out.append(frame(_PING, _ACK, 0, payload))
            elif kind == _GOAWAY:
                raise ConnectionResetError("the server goes")
            if kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                self._end(stream, now)
                if go_on:
                    out.append(self._request(now))
        self._rest = buffer[at:]
        if self._read > _GIVE_BACK:
            out.append(frame(_WINDOW, 0, 0, struct.pack(">I", self._read)))
            self._read = 0
        return b"".join(out)

    def _end(self, stream: int, now: float) -> None:
        began = self._began.pop(stream, None)
        if began is None:
            return
        if stream in self._answered:
            self._answered.discard(stream)
            self.times.append(now - began)
        else:
            self.errors += 1


def measure(order: Order) -> Sample:
    """Carries an order out on a connection of its own."""
    payload = Path(order.request).read_bytes()
    assert order.in_flight * (len(payload) + 5) < 65_536, "the sender's window is not kept"
    client = Client(order.address, payload)
    try:
        elapsed = client.run(order.in_flight, order.seconds)
    finally:
        client.close()
    p50, p99 = np.percentile(client.times, (50, 99)) * 1e6 if client.times else (0.0, 0.0)
    return Sample(
        calls=len(client.times),
        errors=client.errors,
        p50=round(float(p50), 1),
        p99=round(float(p99), 1),
        throughput=round(len(client.times) / elapsed, 1),
        first_error="no answer" if client.errors else "",
    )


def main() -> None:
    """Carries out each order that comes."""
    for line in sys.stdin:
        print(json.dumps(asdict(measure(Order(**json.loads(line))))), flush=True)


if __name__ == "__main__":
    main()
