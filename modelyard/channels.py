"""Opens channels to servers of ours."""
import grpc


def open_channel(address: str, *, pool_index: int = 0, max_message_bytes: int = 128 << 20) -> grpc.aio.Channel:
    """Opens a channel to `host:port` or `unix:/path`."""
    return grpc.aio.insecure_channel(
        address,
        options=(
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.use_local_subchannel_pool", 1),
        ),
    )
