"""The Open Inference Protocol over HTTP, beside gRPC on the same port.

Inference takes the same path as a gRPC call. What is asked of the catalogue goes to the grpc.aio
server behind Envoy, which knows it.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc

from gateway import envelope
from gateway.fronts import oip_json, wire
from gateway.fronts.calls import call_of
from gateway.fronts.metadata import forwarded, provenance
from gateway.stack import Service
from modelyard.errors import Cancelled, MessageTooLarge, ModelyardError, NotFound, Unimplemented
from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.inference.v2 import open_inference_pb2_grpc as pb_grpc
from modelyard.interceptors import as_ours
from modelyard.status import from_rpc_error

Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
Answer: TypeAlias = tuple[int, bytes, wire.Metadata]

_MODEL: Final = re.compile(
    r"/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?(/(?P<verb>infer|ready))?/?"
)
# Of HTTP's, and of no use to a host.
_HTTP: Final = frozenset(
    {b"accept", b"accept-encoding", b"connection", b"content-length", b"transfer-encoding"}
)
_PATIENCE: Final = 10.0


class Rest:
    """Answers requests below `/v2`.

    Args:
        service: The stack.
        clock: Seconds, monotonic; the clock of every deadline.
        limit: Bytes that a body may have.
        channel: To the server that knows the catalogue.
    """

    def __init__(
        self,
        service: Service,
        clock: Callable[[], float],
        limit: int,
        channel: grpc.aio.Channel,
    ) -> None:
        self._service = service
        self._clock = clock
        self._limit = limit
        self._stub = pb_grpc.GRPCInferenceServiceStub(channel)

    async def answer(
        self, method: str, path: str, headers: list[wire.Header], receive: Receive, send: Send
    ) -> None:
        """Answers one request; errors become its status."""
        told: wire.Metadata = ()
        try:
            status, body, told = await self._answer(method, path, headers, receive)
        except ModelyardError as error:
            status, body = oip_json.error(error)
        except grpc.RpcError as error:
            status, body = oip_json.error(from_rpc_error(error))
        except OSError:
            # pyvoy's word for a caller that is gone.
            raise
        except Exception as error:  # Whatever it is, the caller gets a status.
            status, body = oip_json.error(as_ours(error, path, ()))
        sent = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *wire.headers(told),
        ]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": body})

    async def _answer(
        self, method: str, path: str, headers: list[wire.Header], receive: Receive
    ) -> Answer:
        match = _MODEL.fullmatch(path)
        if match is None:
            if method not in ("GET", "HEAD"):
                raise Unimplemented(f"{method} {path}: there is no such call")
            return (*await self._server(path.rstrip("/")), ())
        model, version = unquote(match["model"]), unquote(match["version"] or "")
        if match["verb"] == "infer" and method == "POST":
            return await self._infer(model, version, headers, receive)
        if match["verb"] == "infer" or method not in ("GET", "HEAD"):
            raise Unimplemented(f"{method} {path}: there is no such call")
        if match["verb"] == "ready":
            ready = await self._stub.ModelReady(
                pb.ModelReadyRequest(name=model, version=version), timeout=_PATIENCE
            )
            body = json.dumps({"name": model, "ready": ready.ready}).encode()
            return (200 if ready.ready else 503), body, ()
        asked = pb.ModelMetadataRequest(name=model, version=version)
        held = await self._stub.ModelMetadata(asked, timeout=_PATIENCE)
        return 200, oip_json.metadata(held), ()

    async def _server(self, path: str) -> tuple[int, bytes]:
        match path:
            case "/v2/health/live":
                live = await self._stub.ServerLive(pb.ServerLiveRequest(), timeout=_PATIENCE)
                return (200 if live.live else 503), json.dumps({"live": live.live}).encode()
            case "/v2/health/ready":
                ready = await self._stub.ServerReady(pb.ServerReadyRequest(), timeout=_PATIENCE)
                return (200 if ready.ready else 503), json.dumps({"ready": ready.ready}).encode()
            case "/v2":
                held = await self._stub.ServerMetadata(
                    pb.ServerMetadataRequest(), timeout=_PATIENCE
                )
                told = {"name": held.name, "version": held.version}
                return 200, json.dumps(told | {"extensions": list(held.extensions)}).encode()
        raise NotFound(f"{path}: there is nothing here")

    async def _infer(
        self, model: str, version: str, headers: list[wire.Header], receive: Receive
    ) -> Answer:
        now = self._clock()
        sent = wire.metadata(pair for pair in headers if pair[0] not in _HTTP)
        metadata, request_id = forwarded(sent)
        payload = oip_json.request(model, version, await self._body(receive))
        call = call_of(envelope.read(payload), payload, None, metadata, request_id, now)
        answer = await self._service(call)
        return 200, oip_json.response(answer.payload), provenance(answer, request_id)

    async def _body(self, receive: Receive) -> bytes:
        parts, size, more = [], 0, True
        while more:
            # As in `application`: it is set by another, even where nobody waits any more.
            event = await asyncio.shield(receive())
            if event["type"] != "http.request":
                raise Cancelled("the caller is gone")
            parts.append(event["body"])
            size += len(event["body"])
            if size > self._limit:
                raise MessageTooLarge(f"the body is larger than max ({self._limit} bytes)")
            more = event["more_body"]
        return b"".join(parts)
