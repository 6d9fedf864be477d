"""The grpc.aio server behind a front that answers the hot methods itself, and where they meet."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.settings import GatewaySettings


@contextmanager
def folder() -> Iterator[Path]:
    """A private folder while the block runs."""
    # Paths of sockets are short: not below the folder of a user's choice.
    made = tempfile.mkdtemp(prefix="modelyard-front-")
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def behind(settings: GatewaySettings, socket: Path) -> GatewaySettings:
    """The settings of that server, to which the front alone speaks, on a socket of its own."""
    return settings.model_copy(
        update={
            "listen": f"unix:{socket}",
            "tls_cert": None,
            "tls_key": None,
            "tls_client_ca": None,
            "max_connection_age": 0.0,
        }
    )
