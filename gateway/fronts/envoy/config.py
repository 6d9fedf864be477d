"""What the Envoy with the gateway inside is told.

One listener, the application for the hot methods, the rest behind it. Pure: settings and paths in,
Envoy's bootstrap out, as a mapping.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.fronts.envoy import parts
from gateway.fronts.envoy.parts import TYPES, Front, Json, typed
from gateway.fronts.paths import INFER, REST, STREAM

# Made by Envoy for each stream, and what the caller gave in its place, put aside.
REQUEST_ID_HEADER: Final = b"x-request-id"
GIVEN_ID: Final = b"x-modelyard-given-request-id"

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


def bootstrap(files: Files, front: Front, application: str) -> Json:
    """The whole configuration.

    Args:
        files: Where the two sides meet.
        front: What listens.
        application: `module:attribute` of the ASGI application.
    """
    manager = parts.manager(
        front,
        _routes(),
        [_application(files, application)],
        generate_request_id=True,
        early_header_mutation_extensions=[_ids()],
        access_log=[_resets(files)],
    )
    listener = parts.listener(front, manager)
    behind = parts.cluster("grpc", [files.behind])
    return parts.bootstrap(files.admin, files.pressure, listener, [behind])


def _ids() -> Json:
    """Puts a caller's `x-request-id` aside: Envoy's own tells whose stream was reset."""
    own, given = REQUEST_ID_HEADER.decode(), GIVEN_ID.decode()
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": typed(
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
        "typed_config": typed(
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
            "@type": f"{TYPES}.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
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
        "typed_config": typed("type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path"),
    }
    hot = [
        {"single_predicate": {"input": path, "value_match": {"exact": p}}} for p in (INFER, STREAM)
    ]
    below = {"safe_regex": {"google_re2": {}, "regex": f"{REST}([/?][!-~]*)?"}}
    rest = {"single_predicate": {"input": path, "value_match": below}}
    action = {
        "name": "application",
        "typed_config": typed(
            "extensions.filters.http.composite.v3.ExecuteFilterAction", typed_config=module
        ),
    }
    return {
        "name": "envoy.filters.http.composite",
        "typed_config": typed(
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
                "typed_config": typed("extensions.filters.http.composite.v3.Composite"),
            },
        ),
    }


def _routes() -> list[Json]:
    own, given = REQUEST_ID_HEADER.decode(), GIVEN_ID.decode()
    grpc: Json = {
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
    }
    return [parts.no_text(), grpc, parts.nothing_here()]
