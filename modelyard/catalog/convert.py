"""The catalogue and the hosts, to protobuf and back."""

from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from modelyard import catalog as m
from modelyard.catalog.convert_route import route_from, route_name, route_to
from modelyard.catalog.hosts import Host, HostState
from modelyard.names import LabelName, ModelName, VersionName, check_model
from modelyard.registry.v1 import change_pb2, host_pb2, model_pb2, registry_service_pb2


def time_to(time: datetime) -> Timestamp:
    """A moment, to protobuf."""
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def time_from(stamp: Timestamp) -> datetime:
    """A moment, from protobuf, in UTC."""
    return stamp.ToDatetime(UTC)


def file_to(file: m.File) -> model_pb2.File:
    """A file, to protobuf."""
    return model_pb2.File(path=file.path, digest=file.digest, size_bytes=file.size)


def file_from(file: model_pb2.File) -> m.File:
    """A file, from protobuf."""
    return m.File(file.path, file.digest, file.size_bytes)


def _dimension_to(extent: int | str) -> model_pb2.Dimension:
    if isinstance(extent, int):
        return model_pb2.Dimension(size=extent)
    return model_pb2.Dimension(symbol=extent)


def _dimension_from(dimension: model_pb2.Dimension) -> int | str:
    return dimension.size if dimension.WhichOneof("extent") == "size" else dimension.symbol


def _tensor_to(tensor: m.Tensor) -> model_pb2.Tensor:
    return model_pb2.Tensor(
        name=tensor.name,
        datatype=tensor.datatype,
        shape=[_dimension_to(extent) for extent in tensor.shape],
        optional=tensor.optional,
    )


def _tensor_from(tensor: model_pb2.Tensor) -> m.Tensor:
    shape = tuple(_dimension_from(dimension) for dimension in tensor.shape)
    return m.Tensor(tensor.name, tensor.datatype, shape, tensor.optional)


def signature_to(signature: m.Signature) -> model_pb2.Signature:
    """A signature, to protobuf."""
    return model_pb2.Signature(
        inputs=[_tensor_to(t) for t in signature.inputs],
        outputs=[_tensor_to(t) for t in signature.outputs],
    )


def signature_from(signature: model_pb2.Signature) -> m.Signature:
    """A signature, from protobuf."""
    return m.Signature(
        tuple(_tensor_from(t) for t in signature.inputs),
        tuple(_tensor_from(t) for t in signature.outputs),
    )


def version_to(version: m.Version) -> model_pb2.Version:
    """A version, to protobuf."""
    said = version.provenance
    return model_pb2.Version(
        name=str(version.name),
        number=version.name.number,
        digest=version.digest,
        files=[file_to(f) for f in version.files],
        size_bytes=version.size,
        signature=signature_to(version.signature),
        provenance=model_pb2.Provenance(
            producer=said.producer,
            ir_version=said.ir_version,
            opsets=dict(said.opsets),
            tested_with=said.tested_with,
        ),
        metadata=dict(version.metadata),
        create_time=time_to(version.created),
        loaded=version.loaded,
        shadowed=version.shadowed,
        golden=file_to(version.golden) if version.golden else None,
    )


def version_from(version: model_pb2.Version) -> m.Version:
    """A version, from protobuf."""
    said = version.provenance
    return m.Version(
        name=VersionName.parse(version.name),
        digest=version.digest,
        files=tuple(file_from(f) for f in version.files),
        signature=signature_from(version.signature),
        created=time_from(version.create_time),
        provenance=m.Provenance(
            said.producer, said.ir_version, dict(said.opsets), said.tested_with
        ),
        metadata=dict(version.metadata),
        golden=file_from(version.golden) if version.HasField("golden") else None,
        loaded=version.loaded,
        shadowed=version.shadowed,
    )


def label_to(model: str, label: m.Label) -> model_pb2.Label:
    """A label, to protobuf."""
    return model_pb2.Label(
        name=str(LabelName(model, label.name)),
        version=label.version,
        etag=label.etag,
        update_time=time_to(label.moved),
        earlier_versions=label.earlier,
    )


def label_from(label: model_pb2.Label) -> m.Label:
    """A label, from protobuf."""
    return m.Label(
        LabelName.parse(label.name).label,
        label.version,
        int(label.etag),
        time_from(label.update_time),
        tuple(label.earlier_versions),
    )


def model_to(model: m.Model) -> model_pb2.Model:
    """A model without its versions, to protobuf."""
    return model_pb2.Model(
        name=str(ModelName(model.name)),
        create_time=time_to(model.created),
        labels=[label_to(model.name, la) for _, la in sorted(model.labels.items())],
        newest_version=max(model.versions, default=0),
        last_number=model.last_number,
    )


def snapshot_to(catalog: m.Catalog) -> registry_service_pb2.Snapshot:
    """A whole catalogue, to protobuf."""
    return registry_service_pb2.Snapshot(
        revision=catalog.revision,
        models=[model_to(model) for model in catalog.models.values()],
        versions=[
            version_to(v) for model in catalog.models.values() for v in model.versions.values()
        ],
        routes=[route_to(route) for route in catalog.routes.values()],
    )


def snapshot_from(snapshot: registry_service_pb2.Snapshot) -> m.Catalog:
    """A whole catalogue, from protobuf."""
    versions: dict[str, dict[int, m.Version]] = {}
    for held in snapshot.versions:
        version = version_from(held)
        versions.setdefault(version.name.model, {})[version.name.number] = version
    models = {}
    for model in snapshot.models:
        name = ModelName.parse(model.name).model
        labels = {la.name: la for la in map(label_from, model.labels)}
        models[name] = m.Model(
            name,
            time_from(model.create_time),
            versions.get(name, {}),
            labels,
            model.last_number,
        )
    routes = {route.model: route for route in map(route_from, snapshot.routes)}
    return m.Catalog(snapshot.revision, models, routes)


def change_to(change: m.Change) -> change_pb2.Change:
    """A change, to protobuf: the form in which the log keeps it."""
    pb = change_pb2.Change(
        revision=change.revision,
        time=time_to(change.time),
        actor=change.actor,
        note=change.note,
        request_id=change.request_id,
    )
    match change.event:
        case m.VersionRegistered(version):
            pb.version_registered.version.CopyFrom(version_to(version))
        case m.VersionDeleted(name):
            pb.version_deleted.name = str(name)
        case m.VersionLoaded(name, pool):
            pb.version_loaded.name, pb.version_loaded.pool = str(name), pool
        case m.VersionUnloaded(name, pool):
            pb.version_unloaded.name, pb.version_unloaded.pool = str(name), pool
        case m.LabelMoved(model, label, number):
            pb.label_moved.name = str(LabelName(model, label))
            pb.label_moved.version = number
        case m.LabelRolledBack(model, label, number):
            pb.label_rolled_back.name = str(LabelName(model, label))
            pb.label_rolled_back.version = number
        case m.LabelRemoved(model, label):
            pb.label_removed.name = str(LabelName(model, label))
        case m.RouteReplaced(route):
            pb.route_replaced.route.CopyFrom(route_to(route))
        case m.RouteRemoved(model):
            pb.route_removed.name = route_name(model)
    return pb


def change_from(pb: change_pb2.Change) -> m.Change:
    """A change, from protobuf; raises ValueError for one that this release does not know."""
    return m.Change(
        pb.revision, time_from(pb.time), _event_from(pb), pb.actor, pb.note, pb.request_id
    )


def _event_from(pb: change_pb2.Change) -> m.Event:
    match pb.WhichOneof("event"):
        case "version_registered":
            return m.VersionRegistered(version_from(pb.version_registered.version))
        case "version_deleted":
            return m.VersionDeleted(VersionName.parse(pb.version_deleted.name))
        case "version_loaded":
            loaded = pb.version_loaded
            return m.VersionLoaded(VersionName.parse(loaded.name), loaded.pool)
        case "version_unloaded":
            unloaded = pb.version_unloaded
            return m.VersionUnloaded(VersionName.parse(unloaded.name), unloaded.pool)
        case "label_moved":
            name = LabelName.parse(pb.label_moved.name)
            return m.LabelMoved(name.model, name.label, pb.label_moved.version)
        case "label_rolled_back":
            name = LabelName.parse(pb.label_rolled_back.name)
            return m.LabelRolledBack(name.model, name.label, pb.label_rolled_back.version)
        case "label_removed":
            name = LabelName.parse(pb.label_removed.name)
            return m.LabelRemoved(name.model, name.label)
        case "route_replaced":
            return m.RouteReplaced(route_from(pb.route_replaced.route))
        case "route_removed":
            return m.RouteRemoved(check_model(pb.route_removed.name.split("/")[1]))
    raise ValueError(f"change {pb.revision} is of a kind that this release does not know")


_STATES = {
    HostState.PENDING: host_pb2.Host.STATE_PENDING,
    HostState.LOADING: host_pb2.Host.STATE_LOADING,
    HostState.SERVING: host_pb2.Host.STATE_SERVING,
    HostState.DRAINING: host_pb2.Host.STATE_DRAINING,
    HostState.FAILED: host_pb2.Host.STATE_FAILED,
}
_STATES_BACK = {number: state for state, number in _STATES.items()}


def host_to(host: Host) -> host_pb2.Host:
    """A host, to protobuf."""
    return host_pb2.Host(
        id=host.id,
        version=str(host.version),
        state=_STATES[host.state],
        address=host.address,
        reason=host.reason,
        stage=host.stage,
        restarts=host.restarts,
        state_time=time_to(host.since),
        machine=host.machine,
        pid=host.pid,
        pool=host.pool,
        frames_address=host.frames_address,
    )


def host_from(host: host_pb2.Host) -> Host:
    """A host, from protobuf; one in an unknown state is taken to be failed."""
    return Host(
        id=host.id,
        version=VersionName.parse(host.version),
        state=_STATES_BACK.get(host.state, HostState.FAILED),
        address=host.address,
        reason=host.reason,
        stage=host.stage,
        restarts=host.restarts,
        since=time_from(host.state_time),
        machine=host.machine,
        pid=host.pid,
        pool=host.pool,
        frames_address=host.frames_address,
    )


def hosts_from(hosts: Iterable[host_pb2.Host]) -> tuple[Host, ...]:
    """Hosts, from protobuf."""
    return tuple(map(host_from, hosts))
