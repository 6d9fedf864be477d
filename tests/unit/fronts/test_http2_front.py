"""Where the front of our own listens, and what is said where it cannot."""

import socket
from pathlib import Path

import pytest

from gateway.fronts.http2 import front
from modelyard.errors import FailedPrecondition


def test_it_listens_only_once_it_is_told_to() -> None:
    with front._bound("127.0.0.1:0") as bound, socket.socket() as caller:
        assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0
        with pytest.raises(ConnectionRefusedError):
            caller.connect(bound.getsockname())


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_everywhere_is_both_families() -> None:
    with front._bound("[::]:0") as bound:
        bound.listen()
        with socket.create_connection(("127.0.0.1", bound.getsockname()[1])):
            pass


@pytest.mark.parametrize("listen", ["nobody.invalid:1", "203.0.113.1:1", "unix:/nowhere/s"])
def test_what_cannot_be_bound_is_told(listen: str) -> None:
    with pytest.raises(FailedPrecondition, match="cannot be bound"):
        front._bound(listen)


def test_a_taken_port_is_told() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(FailedPrecondition, match="is it taken"),
    ):
        front._bound(f"127.0.0.1:{other.getsockname()[1]}")


def test_a_path_is_taken_while_somebody_listens_there(tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/s"
    with front._bound(where) as first:
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        first.listen()
        with pytest.raises(FailedPrecondition, match="is it taken"):
            front._bound(where)
    # As a killed process leaves it.
    assert (tmp_path / "s").exists()
    front._bound(where).close()
    (tmp_path / "t").write_text("no socket")
    with pytest.raises(FailedPrecondition, match="is it taken"):
        front._bound(f"unix:{tmp_path}/t")
    assert (tmp_path / "t").read_text() == "no socket"
