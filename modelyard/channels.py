"""Opens channels between our own servers."""

import grpc


def open_channel(
    address: str,
    *,
    pool_index: int = 0,
    max_message_bytes: int = 128 << 20,
    retries: bool = True,
) -> grpc.aio.Channel:
    """Opens a channel to `host:port` or `unix:/path`.

    Args:
        address: Where to.
        pool_index: Channels of different indexes share no connection: one connection carries
            a limited number of streams, and queues the rest in silence.
        max_message_bytes: Of a request or response.
        retries: Lets grpc send a call again that no server has seen. It then counts attempts
            itself, whatever the caller says of them.
    """
    return grpc.aio.insecure_channel(
        address,
        options=(
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # Each channel has a connection of its own; two with equal options would share one.
            ("grpc.use_local_subchannel_pool", 1),
            ("modelyard.pool_index", pool_index),
            # A server that is gone is found again soon; grpc's own back-off goes up to 2 minutes.
            ("grpc.initial_reconnect_backoff_ms", 50),
            # How long one connection may take to be made; no pause between two tries.
            ("grpc.min_reconnect_backoff_ms", 2_000),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", int(retries)),
        ),
    )
