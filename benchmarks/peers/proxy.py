"""A bare bytes-through grpc.aio proxy: the least that any gateway written with grpc.aio costs."""

import argparse
import asyncio

import grpc
import grpc.aio

_LIMIT = 256 << 20
_OPTIONS = [("grpc.max_receive_message_length", _LIMIT), ("grpc.max_send_message_length", _LIMIT)]
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


class PassOn(grpc.GenericRpcHandler):
    """Sends each request on as it came, with what is left of its deadline."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)

        async def pass_on(
            request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]"
        ) -> bytes:
            try:
                return await call(request, timeout=context.time_remaining())
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")

        self._handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            pass_on
        )

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """The handler of ModelInfer; nothing else is served."""
        return self._handler if details.method == _METHOD else None


async def serve(upstream: str, port: int) -> None:
    """Serves until the process ends; prints `ready PORT`."""
    channel = grpc.aio.insecure_channel(upstream, options=_OPTIONS)
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((PassOn(channel),))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(f"ready {bound}", flush=True)
    await server.wait_for_termination()


def main() -> None:
    """Reads the flags and serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True, help="the address behind")
    parser.add_argument("--port", type=int, default=0, help="0 for any free one")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.upstream, arguments.port))


if __name__ == "__main__":
    main()
