"""HTTP/2 by hand, for requests that no gRPC client sends."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass
class Response:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    reset: int | None = None
    ended: bool = False

    @property
    def status(self) -> str | None:
        """`grpc-status`, wherever it stands."""
        return self.trailers.get("grpc-status", self.headers.get("grpc-status"))

    @property
    def message(self) -> str:
        """`grpc-message`, as it travels."""
        return self.trailers.get("grpc-message", self.headers.get("grpc-message", ""))


class Connection:
    """One connection; a context manager. Every wait is bounded."""

    def __init__(self, address: str, patience: float = 20.0) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), patience)
        settings = h2.config.H2Configuration(
            validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(settings)
        self.h2.initiate_connection()
        self.goaway = False
        self._rest = b""
        self._streams: dict[int, Response] = {}
        self.flush()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        """Sends what is waiting."""
        self.socket.sendall(self.h2.data_to_send())

    def begin(self, path: str = INFER, **headers: str) -> int:
        """Opens a stream with gRPC's headers and others; `_` stands for `-`."""
        stream = self.h2.get_next_available_stream_id()
        sent = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "test"}
        sent |= {"content-type": "application/grpc", "te": "trailers"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.h2.send_headers(stream, [(k, v) for k, v in sent.items() if v])
        self._streams[stream] = Response()
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, end: bool = True) -> None:
        """Sends the body, or a part."""
        size = self.h2.max_outbound_frame_size
        parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        for part in parts[:-1]:
            self.h2.send_data(stream, part)
        self.h2.send_data(stream, parts[-1], end_stream=end)
        self.flush()

    def response(self, stream: int) -> Response:
        """Waits for the end of a stream."""
        response = self._streams[stream]
        while not (response.ended or response.reset is not None):
            self.receive()
        return response

    def call(self, body: bytes, path: str = INFER, **headers: str) -> Response:
        """One request, and what comes back."""
        stream = self.begin(path, **headers)
        self.send(stream, body)
        return self.response(stream)

    def _events(self) -> Iterator[h2.events.Event]:
        """Frame by frame: to h2 GOAWAY ends all, to HTTP/2 it ends new streams alone."""
        while len(self._rest) >= 9:
            size = 9 + int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < size:
                return
            frame, self._rest = self._rest[:size], self._rest[size:]
            yield from self.h2.receive_data(frame)
            if self.goaway:
                self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN

    def receive(self) -> None:
        """Takes what comes next; raises ConnectionResetError where the server closed."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError("closed by the server")
        self._rest += data
        for event in self._events():
            of = self._streams.get(getattr(event, "stream_id", 0) or 0)
            if isinstance(event, h2.events.ConnectionTerminated):
                self.goaway = True
            if of is None:
                continue
            match event:
                case h2.events.ResponseReceived():
                    of.headers = _text(event.headers)
                case h2.events.TrailersReceived():
                    of.trailers = _text(event.headers)
                case h2.events.DataReceived():
                    of.data += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamReset():
                    of.reset = event.error_code
                case h2.events.StreamEnded():
                    of.ended = True
        self.flush()


def _text(headers) -> dict[str, str]:
    return {
        (k if isinstance(k, str) else k.decode()): (v if isinstance(v, str) else v.decode())
        for k, v in headers
    }
