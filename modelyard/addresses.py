"""Addresses to listen on: `unix:/path` or `host:port`."""

import ipaddress


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
