"""Addresses to listen on: `unix:/path` or `host:port`."""

import ipaddress

_LARGEST_PORT = 65535


def is_private(listen: str) -> bool:
    """Tells whether only this machine can reach an address."""
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def has_port(address: str) -> bool:
    """Tells whether an address is `host:port`, with a port that can be; the host may be empty."""
    _, colon, port = address.rpartition(":")
    return bool(colon) and port.isascii() and port.isdigit() and int(port) <= _LARGEST_PORT
