"""Commands on the registry.

Past 300 lines: each command is short, and its options take a dozen lines.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from modelyard.cli import progress
from modelyard.cli.changes import described
from modelyard.cli.options import (
    Address,
    Json,
    Model,
    Note,
    OptionalModel,
    Timeout,
    VersionNumber,
)
from modelyard.cli.output import (
    age,
    as_dict,
    as_dicts,
    moment,
    print_json,
    print_table,
    short,
    size,
)
from modelyard.client import Client
from modelyard.names import LIVE
from modelyard.registry.v1 import host_pb2, model_pb2


def register(
    name: Model,
    file: Annotated[
        Path, typer.Argument(metavar="FILE.onnx", exists=True, dir_okay=False, help="The model.")
    ],
    label: Annotated[
        str | None,
        typer.Option(
            "--label", help="Point this label at it, once it serves where the label does."
        ),
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(
            "--golden",
            metavar="FILE.npz",
            exists=True,
            dir_okay=False,
            help="Samples in.NAME and out.NAME that each host proves before it serves.",
        ),
    ] = None,
    meta: Annotated[
        list[str] | None, typer.Option("--meta", metavar="K=V", help="What to keep beside it.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it serves.")] = False,
    allow_duplicate: Annotated[
        bool, typer.Option("--allow-duplicate", help="A new version even of the same files.")
    ] = False,
    note: Note = "",
    timeout: Timeout = None,
    json: Json = False,
    address: Address = None,
) -> None:
    """Register a model file as the next version; the first version of a model becomes live."""
    with Client(address) as client, progress.shown(f"{name}, {file.name}") as listener:
        done = client.register(
            name,
            file,
            label=label,
            golden=golden,
            metadata=_pairs(meta or []),
            note=note,
            allow_duplicate=allow_duplicate,
            wait=wait,
            timeout=timeout,
            progress=listener,
        )
    if json:
        facts = {"version": as_dict(done.version), "created": done.created, "label": done.label}
        print_json(facts)
    else:
        print(f"{done.name} {done.digest}")


def models(json: Json = False, address: Address = None) -> None:
    """List the models and their labels."""
    with Client(address) as client:
        found = client.models()
    if json:
        print_json(as_dicts(found))
        return
    print_table(
        {"model": "left", "newest": "right", "labels": "left", "created": "left"},
        [
            (
                model.name.removeprefix("models/"),
                str(model.newest_version or "-"),
                ", ".join(f"{_last(label.name)} → {label.version}" for label in model.labels),
                moment(model.create_time),
            )
            for model in found
        ],
        empty="no models yet: modelyard register NAME FILE.onnx",
    )


def versions(name: Model, json: Json = False, address: Address = None) -> None:
    """List a model's versions, who serves them, and why one does not."""
    with Client(address) as client:
        found = client.versions(name)
        labels = client.model(name).labels
        running = client.hosts(name)
    if json:
        print_json(
            [
                {
                    **as_dict(version),
                    "labels": _labels(version, labels),
                    "hosts": as_dicts(host for host in running if host.version == version.name),
                }
                for version in found
            ]
        )
        return
    print_table(
        {
            "version": "right",
            "labels": "left",
            "serving": "left",
            "size": "right",
            "digest": "left",
            "registered": "left",
        },
        [
            (
                str(version.number),
                ", ".join(_labels(version, labels)),
                _serving([host for host in running if host.version == version.name]),
                size(version.size_bytes),
                short(version.digest),
                moment(version.create_time),
            )
            for version in found
        ],
        empty=f"{name} has no versions",
    )


def label(
    name: Model,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="The label.")],
    version: VersionNumber,
    etag: Annotated[
        str, typer.Option("--etag", help="Move it only if it still has this etag; 0: is new.")
    ] = "",
    immediate: Annotated[
        bool, typer.Option("--immediate", help="Move it even if the version does not serve.")
    ] = False,
    note: Note = "",
    timeout: Timeout = None,
    json: Json = False,
    address: Address = None,
) -> None:
    """Point a label at a version; a served label moves when the version serves too."""
    with Client(address) as client:
        moved = client.label(
            name, label, version, etag=etag, immediate=immediate, note=note, timeout=timeout
        )
    _print_label(moved, json)


def rollback(
    name: Model,
    label: Annotated[str, typer.Option("--label", help="The label.")] = LIVE,
    immediate: Annotated[
        bool, typer.Option("--immediate", help="Move it even if the version does not serve.")
    ] = False,
    note: Note = "",
    timeout: Timeout = None,
    json: Json = False,
    address: Address = None,
) -> None:
    """Point a label back at the version before; again, at the one before that."""
    with Client(address) as client:
        moved = client.rollback(name, label, immediate=immediate, note=note, timeout=timeout)
    _print_label(moved, json)


def load(
    name: Model,
    version: VersionNumber,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it serves.")] = False,
    note: Note = "",
    timeout: Timeout = None,
    address: Address = None,
) -> None:
    """Serve a version that no label points at."""
    with Client(address) as client, progress.shown(f"{name} {version}") as listener:
        client.load(name, version, wait=wait, note=note, timeout=timeout, progress=listener)


def unload(name: Model, version: VersionNumber, note: Note = "", address: Address = None) -> None:
    """Take load back; a version that a label points at stays."""
    with Client(address) as client:
        client.unload(name, version, note=note)


def delete(name: Model, version: VersionNumber, note: Note = "", address: Address = None) -> None:
    """Delete a version that nothing serves or points at."""
    with Client(address) as client:
        client.delete(name, version, note=note)


def history(
    name: OptionalModel = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    json: Json = False,
    address: Address = None,
) -> None:
    """List changes, the newest first: what was live when, who moved it, and why."""
    with Client(address) as client:
        found = client.history(name, limit=limit)
    if json:
        print_json(as_dicts(found))
        return
    print_table(
        {"revision": "right", "time": "left", "change": "left", "by": "left", "note": "left"},
        [
            (
                str(change.revision),
                moment(change.time),
                described(change),
                change.actor,
                change.note,
            )
            for change in found
        ],
        empty="nothing has changed yet",
    )


def hosts(name: OptionalModel = None, json: Json = False, address: Address = None) -> None:
    """List the processes that serve, and why one does not."""
    with Client(address) as client:
        found = client.hosts(name)
    if json:
        print_json(as_dicts(found))
        return
    print_table(
        {
            "version": "left",
            "state": "left",
            "since": "right",
            "restarts": "right",
            "pid": "right",
            "address": "left",
            "reason": "left",
        },
        [
            (
                host.version.removeprefix("models/").replace("/versions/", " "),
                _state(host),
                age(host.state_time),
                str(host.restarts),
                str(host.pid or "-"),
                host.address,
                host.reason,
            )
            for host in found
        ],
        empty="no hosts",
    )


def _print_label(label: model_pb2.Label, json: bool) -> None:
    if json:
        print_json(as_dict(label))
    else:
        print(f"{label.name} {label.version}")


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise typer.BadParameter(f"{key!r} is not of the form K=V", param_hint="--meta")
    return {key: value for key, _, value in pairs}


def _labels(version: model_pb2.Version, labels: Iterable[model_pb2.Label]) -> list[str]:
    return [_last(label.name) for label in labels if label.version == version.number]


def _serving(hosts: list[host_pb2.Host]) -> str:
    if not hosts:
        return "no"
    serving = sum(host.state == host_pb2.Host.STATE_SERVING for host in hosts)
    parts = [f"{serving} of {len(hosts)}"] if serving else []
    parts += sorted({_state(host) for host in hosts if host.state != host_pb2.Host.STATE_SERVING})
    parts += sorted({host.reason for host in hosts if host.reason})
    return ", ".join(parts)


def _state(host: host_pb2.Host) -> str:
    state = host_pb2.Host.State.Name(host.state).removeprefix("STATE_").lower()
    return f"{state}: {host.stage}" if host.stage and host.stage != state else state


def _last(name: str) -> str:
    return name.rpartition("/")[2]
