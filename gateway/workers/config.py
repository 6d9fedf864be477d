"""What the Envoy before several gateway processes is told: whom to ask, and whom to ask again.

Pure: settings and paths in, Envoy's bootstrap out, as a mapping.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.descriptor import FileDescriptor

from gateway.contracts import CONTRACTS
from gateway.control import SHADOW_FILES
from gateway.fronts.envoy import parts
from gateway.fronts.envoy.parts import Front, Json, typed
from gateway.fronts.paths import INFER, REST
from modelyard.contracts import repeatable

# What belongs to the processes themselves.
_INSIDE: Final = "/modelyard.gateway.v1.WorkerService/"
_HEALTH: Final = "/grpc.health.v1.Health/"

# No worker has seen the call: it can go to another one, whatever it does.
_UNSEEN: Final = "connect-failure,refused-stream,reset-before-request"
# The worker is gone before it began to answer, and the call may be made more than once. grpc's core
# says CANCELLED of calls that wait for a handler when a server stops; a worker never does.
_UNANSWERED: Final = f"{_UNSEEN},reset,cancelled"
# A call that ends the process that takes it must not end them all.
_RETRIES: Final = 2
# A worker is the one with the fewest calls under way of so many drawn; another one than before is
# drawn for so many times.
_CHOICES: Final = 4
_DRAWS: Final = 100
# A call is held so that it can be made again; larger ones are made once. Bytes.
REPEATED_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Files:
    """Where parent, Envoy and workers meet: a folder that nobody else may enter.

    Attributes:
        folder: It.
        workers: How many there are.
    """

    folder: Path
    workers: int

    @property
    def bootstrap(self) -> Path:
        """What Envoy reads."""
        return self.folder / "envoy.json"

    @property
    def admin(self) -> Path:
        """Envoy's administration, a socket."""
        return self.folder / "admin"

    @property
    def pressure(self) -> Path:
        """Above 0.5 when connections that do nothing shall go, a number."""
        return self.folder / "pressure"

    @property
    def parent(self) -> Path:
        """Where the parent tells of health, a socket."""
        return self.folder / "parent"

    @property
    def sockets(self) -> tuple[Path, ...]:
        """Where each worker listens."""
        return tuple(self.folder / f"worker-{index}" for index in range(self.workers))


def bootstrap(files: Files, front: Front, rest: bool) -> Json:
    """The whole configuration.

    Args:
        files: Where all meet.
        front: What listens.
        rest: Whether the workers answer more than gRPC.
    """
    manager = parts.manager(
        front,
        list(_routes(rest)),
        # Callers' own go on as they are.
        generate_request_id=False,
        virtual_host={
            # A worker can tell that another one had the call before it.
            "include_request_attempt_count": True,
            "request_body_buffer_limit": REPEATED_BYTES,
        },
    )
    listener = parts.listener(front, manager)
    # By count, not by chance: a caller has few connections, and each has one thread of Envoy.
    listener["connection_balance_config"] = {"exact_balance": {}}
    workers = parts.cluster(
        "workers",
        files.sockets,
        load_balancing_policy=_least_requests(),
        # Where none is well, any may be tried.
        common_lb_config={
            "healthy_panic_threshold": {"value": 1.0},
            # What became of a worker holds at once; by default a second later.
            "update_merge_window": "0s",
        },
        health_checks=[_health()],
        outlier_detection=_ejection(),
    )
    parent = parts.cluster("parent", [files.parent])
    return parts.bootstrap(files.admin, files.pressure, listener, [workers, parent])


def _least_requests() -> Json:
    policy = typed(
        "extensions.load_balancing_policies.least_request.v3.LeastRequest",
        # Drawn by chance: a worker that is gone has the fewest calls under way, and who always
        # took the one with the fewest would take it again and again.
        choice_count=_CHOICES,
    )
    name = "envoy.load_balancing_policies.least_request"
    return {"policies": [{"typed_extension_config": {"name": name, "typed_config": policy}}]}


def _ejection() -> Json:
    """A worker that cannot be connected to is left out soon, until it is well again.

    After several failures in a row: Envoy counts a worker's resets of streams, too.
    """
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 5,
        "enforcing_consecutive_local_origin_failure": 100,
        # What a worker answers is the caller's, whatever it is.
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "max_ejection_percent": 100,
        "interval": "0.1s",
        "base_ejection_time": "0.2s",
        "max_ejection_time": "1s",
        "max_ejection_time_jitter": "0s",
    }


def _health() -> Json:
    """A worker that drains says so; one that hangs is found after three questions."""
    often = "0.1s"
    return {
        "interval": often,
        "no_traffic_interval": often,
        "timeout": "1s",
        "healthy_threshold": 1,
        "unhealthy_threshold": 3,
        "grpc_health_check": {},
    }


def _routes(rest: bool) -> Iterator[Json]:
    yield parts.no_text()
    yield {"match": {"prefix": _HEALTH}, "route": {"cluster": "parent", "timeout": "0s"}}
    yield {"match": {"prefix": _INSIDE}, "direct_response": {"status": 404}}
    # First what is called most: they are tried one after the other.
    again = _repeatable((*CONTRACTS, *SHADOW_FILES))
    for path in sorted(again, key=lambda path: path != INFER):
        yield _to_workers({"path": path}, _UNANSWERED)
    if rest:
        # Inference, and what is read.
        yield _to_workers({"prefix": REST}, _UNANSWERED)
    yield _to_workers({"prefix": "/", "grpc": {}}, _UNSEEN)
    yield parts.nothing_here()


def _to_workers(match: Json, retry_on: str) -> Json:
    return {
        "match": match,
        "route": {
            "cluster": "workers",
            # No timeout: a call's deadline travels on, and the worker keeps it.
            "timeout": "0s",
            "retry_policy": {
                "retry_on": retry_on,
                "num_retries": _RETRIES,
                "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
                "retry_host_predicate": [
                    {
                        "name": "envoy.retry_host_predicates.previous_hosts",
                        "typed_config": typed(
                            "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                        ),
                    }
                ],
                "host_selection_retry_max_attempts": _DRAWS,
            },
        },
    }


def _repeatable(files: Iterable[FileDescriptor]) -> Iterator[str]:
    """The paths of methods that may be called more than once, and whose request is one message."""
    for file in files:
        for service in file.services_by_name.values():
            for method in service.methods:
                if repeatable(method) and not method.client_streaming:
                    yield f"/{service.full_name}/{method.name}"
