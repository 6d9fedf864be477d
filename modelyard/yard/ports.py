"""Ports are looked at before anything is started, so that the error can be precise."""

import errno
import socket

from modelyard.errors import FailedPrecondition


def check(host: str, port: int, option: str) -> int:
    """Returns the port, or a free one for 0.

    Raises:
        FailedPrecondition: The port is taken, or may not be taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As gRPC does, so that a connection of the last yard in TIME_WAIT is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            # Binding alone succeeds beside a listener that set SO_REUSEPORT.
            probe.listen(1)
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"fails: {error.strerror}"
            raise FailedPrecondition(
                f"{option}: port {port} on {host} {why}; choose another one", port=str(port)
            ) from None
        bound: int = probe.getsockname()[1]
        return bound
