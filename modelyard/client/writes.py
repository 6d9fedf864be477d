"""Programs that change the registry.

Each mutation carries an id of its own, so that the registry makes one change however often the
message comes.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelyard.client import reads
from modelyard.client.reads import REGISTRY, ROUTES, TIMEOUT
from modelyard.client.steps import Method, OnProgress, Program, Progress, Sleep, unary
from modelyard.client.upload import prepare, upload
from modelyard.errors import (
    FailedPrecondition,
    InvalidName,
    NotFound,
    StaleEtag,
    Unavailable,
    Unimplemented,
    VersionNotServing,
)
from modelyard.gateway.v1 import route_pb2
from modelyard.names import LIVE, LabelName, ModelName, VersionName, check_label, check_model
from modelyard.registry.v1 import host_pb2, model_pb2
from modelyard.registry.v1 import registry_service_pb2 as registry
from modelyard.registry.v1 import route_service_pb2 as routes

REGISTER_VERSION = Method(REGISTRY, "RegisterVersion", registry.RegisterVersionResponse)
DELETE_VERSION = Method(REGISTRY, "DeleteVersion", registry.DeleteVersionResponse)
LOAD_VERSION = Method(REGISTRY, "LoadVersion", registry.LoadVersionResponse)
UNLOAD_VERSION = Method(REGISTRY, "UnloadVersion", registry.UnloadVersionResponse)
MOVE_LABEL = Method(REGISTRY, "MoveLabel", registry.MoveLabelResponse)
ROLL_BACK_LABEL = Method(REGISTRY, "RollBackLabel", registry.RollBackLabelResponse)
REMOVE_LABEL = Method(REGISTRY, "RemoveLabel", registry.RemoveLabelResponse)
REPLACE_ROUTE = Method(ROUTES, "ReplaceRoute", routes.ReplaceRouteResponse)
REMOVE_ROUTE = Method(ROUTES, "RemoveRoute", routes.RemoveRouteResponse)

# Loading a large model as a test, or before a label moves, takes its time.
PATIENCE = 600.0
POLL = 0.2

_State = host_pb2.Host.State


@dataclass(frozen=True, slots=True)
class Registration:
    """What came of a registration.

    Attributes:
        name: The version's name, such as `models/digits/versions/3`.
        digest: `sha256:` and 64 hex digits.
        created: False when the same files were this version already.
        label: The label that points at the version now because of this call; empty for none.
        version: All that the registry keeps of the version.
    """

    name: VersionName
    digest: str
    created: bool
    label: str
    version: model_pb2.Version


def register(
    model: str,
    path: Path,
    *,
    label: str | None,
    golden: Path | None,
    metadata: Mapping[str, str] | None,
    note: str,
    allow_duplicate: bool,
    wait: bool,
    timeout: float | None,
    progress: OnProgress | None,
) -> Program[Registration]:
    """Uploads, registers, labels, and waits where asked to."""
    check_model(model)
    if label is not None:
        check_label(label)
    tell = progress or (lambda _: None)
    patience = PATIENCE if timeout is None else timeout
    files, samples = yield from prepare(path, golden)
    yield from upload(files if samples is None else [*files, samples], progress)
    tell(Progress("check"))
    request = registry.RegisterVersionRequest(
        model=model,
        files=[file.noun() for file in files],
        golden=None if samples is None else samples.noun(),
        metadata=dict(metadata or {}),
        allow_duplicate=allow_duplicate,
        request_id=_new_id(),
        note=note,
    )
    reply = yield from unary(REGISTER_VERSION, request, patience)
    name = VersionName.parse(reply.version.name)
    if label is not None:
        tell(Progress("label"))
        yield from move_label(name, label, note=note, timeout=patience)
    elif name.number == 1 and (yield from _first_live(name, note)):
        label = LIVE
    if wait:
        yield from wait_until_serving(name, load=not label, timeout=patience, progress=progress)
    return Registration(name, reply.version.digest, reply.created, label or "", reply.version)


def _first_live(name: VersionName, note: str) -> Program[bool]:
    """Makes a model's first version live, unless someone said otherwise meanwhile."""
    try:
        yield from move_label(name, LIVE, etag="0", note=note)
    except StaleEtag:
        return False
    return True


def wait_until_serving(
    name: VersionName, *, load: bool, timeout: float, progress: OnProgress | None
) -> Program[None]:
    """Waits for a host that serves the version.

    Raises:
        VersionNotServing: Every host failed, with the reason of one; or the time is over.
    """
    if load:
        yield from load_version(name)
    waited, said = 0.0, ""
    while True:
        hosts = yield from reads.list_hosts(str(name))
        states = {host.state for host in hosts}
        serves = _State.STATE_SERVING in states and (yield from _is_reachable(name))
        stage = "serving" if serves else _stage(hosts)
        if progress is not None and stage != said:
            progress(Progress(stage))
            said = stage
        if stage == "serving":
            return
        failed = next((host for host in hosts if _has_failed(host)), None)
        if failed is not None and _State.STATE_LOADING not in states:
            raise VersionNotServing(f"{name} does not serve: {failed.reason}", version=str(name))
        if waited >= timeout:
            raise VersionNotServing(
                f"{name} does not serve after {timeout:g} s; it is {stage}", version=str(name)
            )
        yield Sleep(POLL)
        waited += POLL


def _is_reachable(name: VersionName) -> Program[bool]:
    """Whether the gateway knows the host too; it hears of it a moment after the registry."""
    try:
        return (yield from reads.ready(name.model, name.number))
    except Unimplemented:  # This is the registry itself, and no gateway.
        return True
    except (NotFound, FailedPrecondition, Unavailable):
        return False


def _has_failed(host: host_pb2.Host) -> bool:
    waits = host.state == _State.STATE_PENDING and host.restarts > 0
    return host.state == _State.STATE_FAILED or (waits and bool(host.reason))


def _stage(hosts: list[host_pb2.Host]) -> str:
    for host in hosts:
        if host.state == _State.STATE_LOADING:
            return host.stage or "loading"
    return "pending"


def move_label(
    name: VersionName,
    label: str,
    *,
    etag: str = "",
    immediate: bool = False,
    note: str = "",
    timeout: float | None = None,
) -> Program[model_pb2.Label]:
    """Points a label at a version."""
    request = registry.MoveLabelRequest(
        name=str(LabelName(name.model, check_label(label))),
        version=name.number,
        etag=etag,
        immediate=immediate,
        request_id=_new_id(),
        note=note,
    )
    reply = yield from unary(MOVE_LABEL, request, PATIENCE if timeout is None else timeout)
    return reply.label


def roll_back(
    model: str, label: str, *, etag: str, immediate: bool, note: str, timeout: float | None
) -> Program[model_pb2.Label]:
    """Points a label back."""
    request = registry.RollBackLabelRequest(
        name=str(LabelName(check_model(model), check_label(label))),
        etag=etag,
        immediate=immediate,
        request_id=_new_id(),
        note=note,
    )
    reply = yield from unary(ROLL_BACK_LABEL, request, PATIENCE if timeout is None else timeout)
    return reply.label


def remove_label(model: str, label: str, *, etag: str, note: str) -> Program[None]:
    """Removes a label."""
    request = registry.RemoveLabelRequest(
        name=str(LabelName(check_model(model), check_label(label))),
        etag=etag,
        request_id=_new_id(),
        note=note,
    )
    yield from unary(REMOVE_LABEL, request, TIMEOUT)


def load_version(name: VersionName, note: str = "") -> Program[None]:
    """Asks for hosts of a version."""
    request = registry.LoadVersionRequest(name=str(name), request_id=_new_id(), note=note)
    yield from unary(LOAD_VERSION, request, TIMEOUT)


def load(
    name: VersionName,
    *,
    wait: bool,
    note: str,
    timeout: float | None,
    progress: OnProgress | None,
) -> Program[None]:
    """Asks for hosts of a version, and waits for one where asked to."""
    yield from load_version(name, note)
    if wait:
        patience = PATIENCE if timeout is None else timeout
        yield from wait_until_serving(name, load=False, timeout=patience, progress=progress)


def unload(name: VersionName, *, note: str) -> Program[None]:
    """Takes a load back."""
    request = registry.UnloadVersionRequest(name=str(name), request_id=_new_id(), note=note)
    yield from unary(UNLOAD_VERSION, request, TIMEOUT)


def delete(name: VersionName, *, note: str) -> Program[None]:
    """Deletes a version."""
    request = registry.DeleteVersionRequest(name=str(name), request_id=_new_id(), note=note)
    yield from unary(DELETE_VERSION, request, TIMEOUT)


def replace_route(
    model: str, route: route_pb2.Route, *, validate_only: bool, note: str
) -> Program[route_pb2.Route]:
    """Replaces a model's route."""
    whole = route_pb2.Route()
    whole.CopyFrom(route)
    whole.name = f"{ModelName(check_model(model))}/route"
    request = routes.ReplaceRouteRequest(
        route=whole, validate_only=validate_only, request_id=_new_id(), note=note
    )
    return (yield from unary(REPLACE_ROUTE, request, TIMEOUT)).route


def remove_route(model: str, *, etag: str, note: str) -> Program[None]:
    """Removes a model's route."""
    name = f"{ModelName(check_model(model))}/route"
    request = routes.RemoveRouteRequest(name=name, etag=etag, request_id=_new_id(), note=note)
    yield from unary(REMOVE_ROUTE, request, TIMEOUT)


def version_name(model: str, version: int | str) -> VersionName:
    """A version's name from its number; raises InvalidName."""
    text = str(version)
    if not text.isdecimal() or int(text) < 1:
        raise InvalidName(f"version {version!r} is not a number from 1", field="version")
    return VersionName(check_model(model), int(text))


def _new_id() -> str:
    return str(uuid.uuid4())
