"""What Envoy is told: one listener, the application for the hot methods, the rest behind it.

Pure: settings and paths in, Envoy's bootstrap out, as a mapping. Reference:
https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/bootstrap/v3/bootstrap.proto
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

LISTENER: Final = "front"
INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
STREAM: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
REST: Final = "/v2"
# Made by Envoy for each stream, and what the caller gave in its place, put aside.
REQUEST_ID_HEADER: Final = b"x-request-id"
GIVEN_ID: Final = b"x-modelyard-given-request-id"
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

_TYPES = "type.googleapis.com/envoy"
_FILTERS = f"{_TYPES}.extensions.filters"
_PRESSURE = "envoy.resource_monitors.injected_resource"
# Streams that ended otherwise than by a response: reset by either side, or cut off.
_GIVEN_UP = ("DC", "DR", "DPE", "SI", "DT")


@dataclass(frozen=True, slots=True)
class Files:
    """Where the two sides meet: a folder that nobody else may enter.

    Attributes:
        folder: It.
        module: pyvoy's library, which Envoy loads.
    """

    folder: Path
    module: Path

    @property
    def bootstrap(self) -> Path:
        """What Envoy reads."""
        return self.folder / "envoy.json"

    @property
    def admin(self) -> Path:
        """Envoy's administration, a socket."""
        return self.folder / "admin"

    @property
    def behind(self) -> Path:
        """The grpc.aio server, a socket."""
        return self.folder / "grpc"

    @property
    def resets(self) -> Path:
        """The streams that were reset, a pipe."""
        return self.folder / "resets"

    @property
    def pressure(self) -> Path:
        """Above 0.5 when connections that do nothing shall go, a number."""
        return self.folder / "pressure"


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


def bootstrap(files: Files, front: Front, application: str) -> Json:
    """The whole configuration.

    Args:
        files: Where the two sides meet.
        front: What listens.
        application: `module:attribute` of the ASGI application.
    """
    return {
        "admin": {"address": _pipe(files.admin)},
        "overload_manager": _overload(files),
        "layered_runtime": {"layers": [{"name": "static", "static_layer": _RUNTIME}]},
        "static_resources": {
            "listeners": [_listener(files, front, application)],
            "clusters": [_behind(files)],
        },
    }


def _pipe(path: Path) -> Json:
    return {"pipe": {"path": str(path), "mode": 0o600}}


def _typed(kind: str, **fields: Any) -> Json:
    return {"@type": f"{_TYPES}.{kind}", **fields}


def _overload(files: Files) -> Json:
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
                "typed_config": _typed(
                    "extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
                    filename=str(files.pressure),
                ),
            },
            {
                "name": connections,
                "typed_config": _typed(
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
                "typed_config": _typed(
                    "config.overload.v3.ScaleTimersOverloadActionConfig",
                    timer_scale_factors=[
                        {"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": "0.02s"}
                    ],
                ),
            }
        ],
    }


def _listener(files: Files, front: Front, application: str) -> Json:
    chain: Json = {"filters": [_manager(files, front, application)]}
    if front.certificate is not None:
        chain["transport_socket"] = _tls(front)
    address: Json = {"socket_address": {"address": front.address, "port_value": front.port}}
    if front.port < 0:
        address = _pipe(Path(front.address))
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
        "typed_config": _typed(
            "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context=common,
            require_client_certificate=front.authorities is not None,
        ),
    }


def _manager(files: Files, front: Front, application: str) -> Json:
    common: Json = {"idle_timeout": "3600s"}
    if front.max_connection_age:
        common["max_connection_duration"] = f"{front.max_connection_age:g}s"
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": _typed(
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
            generate_request_id=True,
            early_header_mutation_extensions=[_ids()],
            access_log=[_resets(files)],
            http_filters=[
                _application(files, application),
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": _typed(
                        "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True
                    ),
                },
            ],
            route_config=_routes(),
        ),
    }


def _ids() -> Json:
    """Puts a caller's `x-request-id` aside: Envoy's own tells whose stream was reset."""
    own, given = REQUEST_ID_HEADER.decode(), GIVEN_ID.decode()
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": _typed(
            "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            mutations=[
                {"remove": given},
                {
                    "append": {
                        "header": {"key": given, "value": f"%REQ({own})%"},
                        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                    }
                },
                {"remove": own},
                # Without it pyvoy sends no trailers; gRPC wants it, and not all callers know.
                {
                    "append": {
                        "header": {"key": "te", "value": "trailers"},
                        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                    }
                },
            ],
        ),
    }


def _resets(files: Files) -> Json:
    no_response = {
        "status_code_filter": {
            "comparison": {"op": "EQ", "value": {"default_value": 0, "runtime_key": "unused"}}
        }
    }
    cut_off = {"response_flag_filter": {"flags": list(_GIVEN_UP)}}
    return {
        "name": "envoy.access_loggers.file",
        "filter": {"or_filter": {"filters": [no_response, cut_off]}},
        "typed_config": _typed(
            "extensions.access_loggers.file.v3.FileAccessLog",
            path=str(files.resets),
            log_format={
                "text_format_source": {"inline_string": f"%REQ({REQUEST_ID_HEADER.decode()})%\n"}
            },
        ),
    }


def _application(files: Files, application: str) -> Json:
    """The Python application, for the hot methods and REST; once: each would have its own loop."""
    told = {"app": application, "interface": "asgi", "lifespan": True}
    module = {
        "name": "pyvoy",
        "typed_config": {
            "@type": f"{_FILTERS}.http.dynamic_modules.v3.DynamicModuleFilter",
            "dynamic_module_config": {"module": {"local": {"filename": str(files.module)}}},
            "filter_name": "pyvoy",
            "terminal_filter": True,
            "filter_config": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": json.dumps(told),
            },
        },
    }
    path = {
        "name": "path",
        "typed_config": _typed("type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path"),
    }
    hot = [
        {"single_predicate": {"input": path, "value_match": {"exact": p}}} for p in (INFER, STREAM)
    ]
    rest = {"single_predicate": {"input": path, "value_match": {"prefix": REST}}}
    action = {
        "name": "application",
        "typed_config": _typed(
            "extensions.filters.http.composite.v3.ExecuteFilterAction", typed_config=module
        ),
    }
    return {
        "name": "envoy.filters.http.composite",
        "typed_config": _typed(
            "extensions.common.matching.v3.ExtensionWithMatcher",
            xds_matcher={
                "matcher_list": {
                    "matchers": [
                        {
                            "predicate": {"or_matcher": {"predicate": [*hot, rest]}},
                            "on_match": {"action": action},
                        }
                    ]
                }
            },
            extension_config={
                "name": "envoy.filters.http.composite",
                "typed_config": _typed("extensions.filters.http.composite.v3.Composite"),
            },
        ),
    }


def _routes() -> Json:
    own, given = REQUEST_ID_HEADER.decode(), GIVEN_ID.decode()
    routes: list[Json] = [
        {
            "match": {"prefix": "/", "grpc": {}},
            # No timeout: a call's deadline travels on, and the server behind keeps it.
            "route": {"cluster": "grpc", "timeout": "0s"},
            "request_headers_to_add": [
                {
                    "header": {"key": own, "value": f"%REQ({given})%"},
                    "append_action": "OVERWRITE_IF_EXISTS",
                }
            ],
            "request_headers_to_remove": [given],
        },
        {
            "match": {"prefix": "/"},
            "direct_response": {
                "status": 404,
                "body": {"inline_string": "gRPC, and REST below /v2\n"},
            },
        },
    ]
    return {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}


def _behind(files: Files) -> Json:
    return {
        "name": "grpc",
        "type": "STATIC",
        "per_connection_buffer_limit_bytes": 1 << 20,
        "circuit_breakers": {
            "thresholds": [
                {
                    name: 1_000_000
                    for name in ("max_connections", "max_pending_requests", "max_requests")
                }
            ]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _typed(
                "extensions.upstreams.http.v3.HttpProtocolOptions",
                explicit_http_config={"http2_protocol_options": {}},
            )
        },
        "load_assignment": {
            "cluster_name": "grpc",
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(files.behind)}}}}]}
            ],
        },
    }
