"""Hosts as a registry hears of them, until their lease ends."""

import pytest

from modelyard.registry.v1 import (
    host_pb2,
    host_service_pb2,
    model_pb2,
)
from tests.kit.registry_client import PATIENCE, Client, duration, refusal, wait_until


def test_hosts_are_listed_until_their_lease_ends(
    client: Client, file: model_pb2.File, model: str
) -> None:
    one, two = f"models/{model}/versions/1", f"models/{model}/versions/2"
    serving = host_pb2.Host.STATE_SERVING
    stays = host_pb2.Host(id=f"{model}-b", version=one, state=serving, address="unix:/b", pid=7)
    client.report(f"{model}-stays", stays)
    client.report(
        f"{model}-ends", host_pb2.Host(id=f"{model}-a", version=two, state=serving), ttl=0.3
    )
    # The lease may end at any moment; the watch tells of it without being asked.
    watch = client.hosts.WatchHosts(host_service_pb2.WatchHostsRequest(), timeout=PATIENCE)
    for told in watch:
        if f"{model}-a" not in {host.id for host in told.hosts}:
            break
    watch.cancel()
    parent = f"models/{model}"
    wait_until(lambda: client.hosts_of(parent) == [f"{model}-b"])
    assert client.hosts_of(one) == [f"{model}-b"]
    assert client.hosts_of(two) == []
    listed = client.hosts.ListHosts(
        host_service_pb2.ListHostsRequest(parent=parent), timeout=PATIENCE
    )
    stays.state_time.SetInParent()
    assert list(listed.hosts) == [stays], "a host is told of as it was reported"
    client.report(f"{model}-stays")
    assert client.hosts_of(parent) == []


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (host_service_pb2.ReportHostsRequest(ttl=duration(1)), "INVALID_ARGUMENT", "supervisor"),
        (host_service_pb2.ReportHostsRequest(supervisor="s"), "INVALID_ARGUMENT", "ttl"),
        (
            host_service_pb2.ReportHostsRequest(supervisor="s", ttl=duration(301)),
            "INVALID_ARGUMENT",
            "ttl",
        ),
        (
            host_service_pb2.ReportHostsRequest(
                supervisor="s", ttl=duration(1), hosts=[host_pb2.Host(id="a", version="nonsense")]
            ),
            "INVALID_NAME",
            "name",
        ),
    ],
)
def test_a_wrong_report_names_its_field_and_changes_nothing(
    client: Client, request_: host_service_pb2.ReportHostsRequest, reason: str, field: str
) -> None:
    before = client.hosts_of("")
    refused = refusal(client.hosts.ReportHosts, request_)
    assert (refused.reason, refused.metadata["field"]) == (reason, field)
    assert client.hosts_of("") == before
