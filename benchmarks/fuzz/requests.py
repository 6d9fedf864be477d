"""Requests as no honest caller makes them: headers, envelopes and messages; seeded, without I/O."""

import gzip
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.fuzz.http2 import Header, bits, garble
from modelyard.inference.v2 import open_inference_pb2 as pb

MODEL: Final = "m"
# What the fronts under fire take.
LARGEST: Final = 1 << 20

_OIP = "/inference.GRPCInferenceService/"
INFER, STREAM, REST = _OIP + "ModelInfer", _OIP + "ModelStreamInfer", f"/v2/models/{MODEL}/infer"
# Those that change nothing, for what is sent must be the same from the first to the last.
_OTHERS: Final = (
    *(_OIP + name for name in ("ServerLive", "ModelReady", "ModelMetadata", "ModelStatistics")),
    *(_OIP + name for name in ("ModelConfig", "RepositoryIndex", "Nothing", "")),
    "/modelyard.gateway.v1.GatewayService/GetStatus",
    "/modelyard.registry.v1.RegistryService/ListModels",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    *("", "/", "*", "/v2", "/v2/models//infer", "/v2/models/%00/ready", "/" + "a" * 9000),
)
_TIMEOUTS: Final = (
    *(b"", b"0n", b"1n", b"1m", b"20m", b"5S", b"99999999H", b"123456789S", b"-1S", b"+1S"),
    *(b"1", b"S", b"1s", b"1 S", b" 1S", b"1S1S", b"1e3S", b"0x1S", b"\xff", b"1\x00S", b"1.5S"),
)
_ENCODINGS: Final = (b"", b"identity", b"gzip", b"deflate", b"snappy", b"gzip,gzip", b"\xffgzip")
_TYPES: Final = (
    *(b"", b"application/grpc+proto", b"application/grpc+json", b"application/grpcx"),
    *(b"application/grpc-web", b"text/html", b"application/grpc; charset=utf-8", b"\xff"),
)
_BINARY: Final = (
    *(b"", b"=", b"====", b"a", b"ab", b"abc", b"!!!!", b",", b"YQ==,YQ", b"YQ==YQ==", b"\xff\xfe"),
    b"A" * 5000,
)
_ODD: Final[tuple[tuple[Header, ...], ...]] = (
    ((b"Upper", b"x"),),
    ((b"x\r\ny", b"x"),),
    ((b"x-lines", b"a\r\nx-injected: b"),),
    ((b"x-null", b"a\x00b"),),
    ((b"x-latin", "é".encode("latin-1")),),
    ((b"", b"nameless"),),
    ((b"x y", b"spaced"),),
    ((b"x-space", b"  \t "),),
    ((b":path", b"/again"),),
    ((b":status", b"200"),),
    ((b":protocol", b"websocket"),),
    ((b"connection", b"close"),),
    ((b"transfer-encoding", b"chunked"),),
    ((b"upgrade", b"h2c"),),
    ((b"expect", b"100-continue"),),
    ((b"content-length", b"3"),),
    ((b"content-length", b"-1"),),
    ((b"content-length", b"3"), (b"content-length", b"4")),
    ((b"host", b"elsewhere"),),
    ((b"cookie", b"a=b"),) * 300,
    ((b"grpc-status", b"0"), (b"grpc-message", b"%zz%")),
    ((b"grpc-accept-encoding", b"\x00"),),
    ((b"grpc-previous-rpc-attempts", b"-7"),),
    ((b"grpc-retry-pushback-ms", b"9" * 400),),
    ((b"traceparent", b"00-" + b"0" * 32 + b"-zz-01"), (b"tracestate", b"=,=,=")),
    ((b"x-request-id", b"same"), (b"x-modelyard-given-request-id", b"same")),
    ((b"modelyard-request-id", b"r" * 3000),),
    ((b"modelyard-target", b"models/m/versions/9"), (b"modelyard-attempt", b"nope")),
    ((b"modelyard-served-by", b"nobody"), (b"triton_grpc_error", b"true")),
    ((b"x-forwarded-for", b"1.2.3.4, \xff"), (b"x-envoy-upstream-rq-timeout-ms", b"1")),
    ((b"x-envoy-retry-on", b"5xx"), (b"x-envoy-original-path", b"/admin")),
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        kind: What is odd about it.
        headers: In their order.
        parts: Of its body.
        trailers: After its body; empty for none.
    """

    kind: str
    headers: tuple[Header, ...]
    parts: tuple[bytes, ...]
    trailers: tuple[Header, ...] = ()


def message(marker: bytes, floats: int = 8) -> bytes:
    """A right call of the identity model, whose answer holds the marker twice."""
    request = pb.ModelInferRequest(model_name=MODEL, id=marker.decode())
    data = marker.ljust(4 * floats, b".")
    data += bytes(-len(data) % 4)
    request.inputs.add(name="x", datatype="FP32", shape=[len(data) // 4])
    request.raw_input_contents.append(data)
    return request.SerializeToString()


def envelope(payload: bytes, flag: int = 0, size: int | None = None) -> bytes:
    """A message as gRPC frames it, or says that it does."""
    return bytes((flag,)) + (len(payload) if size is None else size).to_bytes(4, "big") + payload


def headers(path: str = INFER, *more: Header) -> tuple[Header, ...]:
    """Right headers, and others."""
    json = path.startswith("/v2")
    kind = b"application/json" if json else b"application/grpc"
    return (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"fuzz"),
        (b"content-type", kind),
        *(() if json else ((b"te", b"trailers"),)),
        *more,
    )


def good(marker: bytes, floats: int = 8) -> Request:
    """A right request."""
    timeout = (b"grpc-timeout", b"20S")
    return Request("right", headers(INFER, timeout), (envelope(message(marker, floats)),))


def odd(chance: random.Random, marker: bytes) -> Request:
    """A request that is wrong in one way, seldom in two."""
    made = chance.choice(_KINDS)(chance, marker)
    if chance.random() < 0.1:
        more = _metadata(chance, marker)
        return Request(made.kind, more.headers, made.parts, made.trailers)
    return made


def _metadata(chance: random.Random, marker: bytes) -> Request:
    """Headers that no caller sends."""
    sent, kind = list(good(marker).headers), "headers"
    match chance.randrange(9):
        case 0:
            sent[-1] = (b"grpc-timeout", chance.choice(_TIMEOUTS))
            kind = "grpc-timeout"
        case 1:
            sent[4] = (b"content-type", chance.choice(_TYPES))
            kind = "content-type"
        case 2:
            sent += [(b"x-mine-bin", chance.choice(_BINARY)) for _ in range(chance.choice((1, 3)))]
            kind = "binary metadata"
        case 3:
            size = chance.choice((3000, 8000, 17_000, 60_000, 200_000, LARGEST))
            sent.append((b"x-large", b"v" * size))
            kind = "large metadata"
        case 4:
            sent += [(b"x-%d" % n, marker) for n in range(chance.choice((90, 120, 1000)))]
            kind = "many headers"
        case 5:
            del sent[chance.randrange(len(sent))]
        case 6:
            at = chance.randrange(len(sent))
            sent[at] = (sent[at][0], garble(chance, sent[at][1]))
        case 7:
            at = chance.randrange(len(sent))
            sent.insert(chance.randrange(len(sent)), (garble(chance, sent[at][0]), sent[at][1]))
        case _:
            sent += chance.choice(_ODD)
    return Request(kind, tuple(sent), good(marker).parts)


def _envelopes(chance: random.Random, marker: bytes) -> Request:
    """Messages that say other than they are."""
    payload = message(marker)
    whole = envelope(payload)
    encoding = chance.choice(_ENCODINGS)
    squeezed = gzip.compress(payload, 1) if chance.random() < 0.5 else zlib.compress(payload, 1)
    cut = chance.randrange(len(whole))
    choices: tuple[tuple[str, tuple[bytes, ...]], ...] = (
        ("no message", ()),
        ("a message cut off", (whole[:cut],)),
        ("a wrong size", (envelope(payload, size=chance.choice(_sizes(chance, len(payload)))),)),
        ("a flag", (envelope(payload, flag=chance.randrange(1, 256)),)),
        ("compressed", (envelope(squeezed, flag=1),)),
        ("compressed, spoilt", (envelope(garble(chance, squeezed), flag=1),)),
        ("a bomb", (envelope(_BOMB, flag=1),)),
        ("many messages", (whole * chance.choice((2, 3, 50)),)),
        ("empty messages", (envelope(b"") * chance.choice((1, 2, 500)),)),
        ("in pieces", tuple(whole[at : at + 3] for at in range(0, len(whole), 3))),
        ("bytes after it", (whole, chance.randbytes(chance.randrange(1, 9)))),
    )
    kind, parts = chance.choice(choices)
    path = chance.choice((INFER, INFER, STREAM))
    more = ((b"grpc-encoding", encoding),) if encoding else ()
    trailers = ((b"x-trailer", marker),) if chance.random() < 0.1 else ()
    return Request(kind, headers(path, (b"grpc-timeout", b"300m"), *more), parts, trailers)


def _sizes(chance: random.Random, size: int) -> tuple[int, ...]:
    near = (0, 1, size - 1, size + 1, size * 2, LARGEST, LARGEST + 1)
    return (*near, 1 << 31, (1 << 32) - 1, chance.getrandbits(32))


def _payloads(chance: random.Random, marker: bytes) -> Request:
    """Messages whose bytes are no message of the protocol, or hardly one."""
    payload = message(marker, chance.choice((8, 8, 200)))
    for _ in range(chance.choice((1, 1, 3))):
        payload = garble(chance, payload)
    path = chance.choice((INFER, INFER, STREAM, *_OTHERS[:6]))
    return Request("spoilt protobuf", headers(path), (envelope(payload),))


def _tensors(chance: random.Random, marker: bytes) -> Request:
    """Right protobuf, wrong request."""
    request = pb.ModelInferRequest.FromString(message(marker))
    tensor = request.inputs[0]
    match chance.randrange(10):
        case 0:
            tensor.shape[:] = [chance.choice((-1, 0, 1, 7, 1 << 40, (1 << 63) - 1, -(1 << 63)))]
        case 1:
            tensor.shape[:] = [1 << 20] * chance.choice((2, 4, 60))
        case 2:
            tensor.datatype = chance.choice(("", "FP64", "BYTES", "BF16", "BOOL", "é", "x" * 5000))
        case 3:
            tensor.contents.fp32_contents.extend([1.0] * chance.choice((1, 8, 3000)))
        case 4:
            request.raw_input_contents.extend([b"", marker] * chance.choice((1, 40)))
        case 5:
            for number in range(chance.choice((1, 300))):
                request.inputs.add(name=str(number), datatype="FP32", shape=[1])
        case 6:
            request.model_name = chance.choice(_NAMES)
        case 7:
            request.model_version = chance.choice(("0", "-1", "9" * 30, "live", "é", "1.0", " 1"))
        case 8:
            name = chance.choice(("timeout", "sequence_id", "priority", "sequence_end", "é" * 40))
            parameter = request.parameters[name]
            chance.choice(
                (
                    lambda: setattr(parameter, "int64_param", chance.getrandbits(63)),
                    lambda: setattr(parameter, "int64_param", -1),
                    lambda: setattr(parameter, "string_param", "s" * chance.choice((0, 9, 5000))),
                    lambda: setattr(parameter, "double_param", float("nan")),
                    lambda: setattr(parameter, "bool_param", True),
                )
            )()
        case _:
            request.outputs.add(name=chance.choice(("", "y", "q" * 3000)))
            request.outputs.add(name="y")
    path = chance.choice((INFER, INFER, STREAM))
    return Request("odd tensors", headers(path), (envelope(request.SerializeToString()),))


def _elsewhere(chance: random.Random, marker: bytes) -> Request:
    """To what answers beside inference, or nothing does."""
    path, payload = chance.choice(_OTHERS), chance.choice((b"", message(marker), b"\xff\xff\xff"))
    if chance.random() < 0.5:
        payload = garble(chance, payload)
    sent = headers(path, (b"grpc-timeout", b"200m"))
    if chance.random() < 0.2:
        method = chance.choice((b"GET", b"PUT", b"OPTIONS", b"CONNECT", b"", b"x" * 900))
        sent = ((b":method", method), *sent[1:])
    return Request("another method", sent, (envelope(payload),))


def _rest(chance: random.Random, marker: bytes) -> Request:
    """JSON, or hardly."""
    values = ",".join(str(n) for n in np.frombuffer(marker[:8], np.uint16))
    shape = chance.choice(("[4]", "[2,2]", "[-1]", "[1e9]", "[9999999999]", "{}"))
    datatype = chance.choice(("FP32", "FP32", "FP32", "INT64", "BYTES", "BF16", "x"))
    text = (
        f'{{"id": "{marker.decode()}", "inputs": [{{"name": "x", "shape": {shape},'
        f' "datatype": "{datatype}", "data": [{values}]}}]}}'
    ).encode()
    choices: tuple[Callable[[], bytes], ...] = (
        lambda: text,
        lambda: garble(chance, text),
        lambda: bits(chance, text),
        lambda: text.replace(chance.choice((b"FP32", b"x", marker)), rb"\ud800"),
        lambda: text[:-1] + rb', "parameters": {"a": "\ud800"}}',
        lambda: b"[" * chance.choice((10, 5000, 200_000)),
        lambda: text.replace(b"[", b"[" * 40),
        lambda: text.replace(values.encode(), b"1e999,NaN,-Infinity,null"),
        lambda: text.replace(
            values.encode(), b"1%b,2,3,4" % (b"0" * chance.choice((20, 400, 6000)))
        ),
        lambda: b'{"a":' * 3000,
        lambda: chance.randbytes(300),
    )
    return Request("REST", headers(REST), (chance.choice(choices)(),))


_KINDS: Final = (
    _metadata,
    _metadata,
    _envelopes,
    _envelopes,
    _payloads,
    _tensors,
    _elsewhere,
    _rest,
)
_NAMES: Final = ("", "nope", "m" * 3000, "m" * 300_000, "é" * 9000, "../m", "m\x00", "models/m")
# Inflates to four times what may be.
_BOMB: Final = gzip.compress(bytes(4 * LARGEST))
