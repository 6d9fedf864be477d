"""What every Envoy of ours is told alike: how it listens, speaks HTTP/2 and lets callers go.

Pure: settings and paths in, pieces of Envoy's bootstrap out, as mappings. Reference:
https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/bootstrap/v3/bootstrap.proto
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

LISTENER: Final = "front"
# A connection that is asked to go may still begin calls for so long: some are on their way.
GOING: Final = 0.2
# Connections at a time; each takes a file descriptor.
_CONNECTIONS: Final = 100_000
_STREAMS: Final = 10_000

# Callers that hedge, or have short deadlines, reset streams all the time, and that is no attack
# (CVE-2023-44487). By default Envoy ends a connection, with all its calls, of which half of 500
# streams were reset within a second, and its HTTP/2 library one with 33 resets a second, after
# 1,000. In their place a bound that no caller reaches who waits for anything.
_RESETS: Final = 100_000
_RUNTIME: Final = {"overload": {"premature_reset_total_stream_count": 1 << 40}}

TYPES: Final = "type.googleapis.com/envoy"
_PRESSURE = "envoy.resource_monitors.injected_resource"


@dataclass(frozen=True, slots=True)
class Front:
    """What listens.

    Attributes:
        address: An IP address or, with a port below 0, a path.
        port: 0 takes a free one.
        certificate: Of the server, PEM; None without TLS.
        key: Of the certificate, PEM.
        authorities: Who may call, PEM; None for everybody.
        max_connection_age: Seconds; 0 for ever.
    """

    address: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None
    max_connection_age: float = 0.0


def typed(kind: str, **fields: Any) -> Json:
    """A message of one of Envoy's types."""
    return {"@type": f"{TYPES}.{kind}", **fields}


def pipe(path: Path) -> Json:
    """The address of a unix socket, which only this user may open."""
    return {"pipe": {"path": str(path), "mode": 0o600}}


def bootstrap(admin: Path, pressure: Path, listener: Json, clusters: Sequence[Json]) -> Json:
    """The whole configuration.

    Args:
        admin: The socket of Envoy's administration.
        pressure: A file with a number: above 0.5 when connections that do nothing shall go.
        listener: The one listener.
        clusters: What stands behind it.
    """
    return {
        "admin": {"address": pipe(admin)},
        "overload_manager": _overload(pressure),
        "layered_runtime": {"layers": [{"name": "static", "static_layer": _RUNTIME}]},
        "static_resources": {"listeners": [listener], "clusters": list(clusters)},
    }


def _overload(pressure: Path) -> Json:
    """Lets connections that do nothing be told to go.

    Envoy sends GOAWAY with a response, or when a connection was idle for too long: shortening
    that time, as under overload, reaches those on which no response is due.
    """
    connections = "envoy.resource_monitors.global_downstream_max_connections"
    return {
        "refresh_interval": "0.05s",
        "resource_monitors": [
            {
                "name": _PRESSURE,
                "typed_config": typed(
                    "extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
                    filename=str(pressure),
                ),
            },
            {
                "name": connections,
                "typed_config": typed(
                    "extensions.resource_monitors.downstream_connections.v3"
                    ".DownstreamConnectionsConfig",
                    max_active_downstream_connections=_CONNECTIONS,
                ),
            },
        ],
        "actions": [
            {
                "name": "envoy.overload_actions.reduce_timeouts",
                "triggers": [{"name": _PRESSURE, "threshold": {"value": 0.5}}],
                "typed_config": typed(
                    "config.overload.v3.ScaleTimersOverloadActionConfig",
                    timer_scale_factors=[
                        {"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": "0.02s"}
                    ],
                ),
            }
        ],
    }


def listener(front: Front, manager: Json) -> Json:
    """What takes connections, and hands them to an HTTP connection manager."""
    chain: Json = {"filters": [manager]}
    if front.certificate is not None:
        chain["transport_socket"] = _tls(front)
    address: Json = {"socket_address": {"address": front.address, "port_value": front.port}}
    if front.port < 0:
        address = pipe(Path(front.address))
    elif front.address == "::":
        address["socket_address"]["ipv4_compat"] = True
    return {
        "name": LISTENER,
        "address": address,
        # Two processes on one port would share its calls in silence.
        "enable_reuse_port": False,
        "filter_chains": [chain],
    }


def _tls(front: Front) -> Json:
    common: Json = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(front.certificate)},
                "private_key": {"filename": str(front.key)},
            }
        ],
    }
    if front.authorities is not None:
        common["validation_context"] = {"trusted_ca": {"filename": str(front.authorities)}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(
            "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context=common,
            require_client_certificate=front.authorities is not None,
        ),
    }


def manager(
    front: Front, routes: Sequence[Json], filters: Sequence[Json] = (), **more: Any
) -> Json:
    """An HTTP connection manager as gRPC's callers need it.

    Args:
        front: What listens.
        routes: Tried in their order, by the router that comes after all filters.
        filters: Before the router.
        more: Further fields; those of the virtual host under `virtual_host`.
    """
    common: Json = {"idle_timeout": "3600s"}
    if front.max_connection_age:
        common["max_connection_duration"] = f"{front.max_connection_age:g}s"
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": typed(
            "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True
        ),
    }
    host = {"name": "all", "domains": ["*"], "routes": list(routes), **more.pop("virtual_host", {})}
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": typed(
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix=LISTENER,
            codec_type="AUTO",
            common_http_protocol_options=common,
            http2_protocol_options={
                "max_concurrent_streams": _STREAMS,
                "stream_reset_burst": _RESETS,
                "stream_reset_rate": _RESETS // 10,
                # A caller whose machine is gone gives up nothing: its calls end with this.
                "connection_keepalive": {"interval": "60s", "timeout": "20s"},
                "override_stream_error_on_invalid_http_message": True,
            },
            # Calls have deadlines, and streams may rest.
            stream_idle_timeout="0s",
            request_headers_timeout="10s",
            drain_timeout=f"{GOING}s",
            server_header_transformation="PASS_THROUGH",
            skip_xff_append=True,
            http_filters=[*filters, router],
            route_config={"virtual_hosts": [host]},
            **more,
        ),
    }


def no_text() -> Json:
    """Before every other route: a path that is not printable ASCII, which grpc.aio does not bear.

    See `modelyard.server`.
    """
    text = {"safe_regex": {"regex": "/[!-~]*"}}
    path = {"name": ":path", "string_match": text, "invert_match": True}
    match = {"prefix": "/", "headers": [path]}
    return {"match": match, "direct_response": {"status": 404}}


def nothing_here() -> Json:
    """The last route."""
    return {
        "match": {"prefix": "/"},
        "direct_response": {
            "status": 404,
            "body": {"inline_string": "gRPC, and REST below /v2\n"},
        },
    }


def cluster(name: str, sockets: Sequence[Path], **more: Any) -> Json:
    """Servers on this machine that speak HTTP/2 on unix sockets; `more` are further fields."""
    unbounded = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {
        "name": name,
        "type": "STATIC",
        "per_connection_buffer_limit_bytes": 1 << 20,
        "circuit_breakers": {"thresholds": [dict.fromkeys(unbounded, 1_000_000)]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "extensions.upstreams.http.v3.HttpProtocolOptions",
                explicit_http_config={"http2_protocol_options": {}},
            )
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"pipe": {"path": str(path)}}}} for path in sockets
                    ]
                }
            ],
        },
        **more,
    }
