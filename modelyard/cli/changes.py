"""One line about a change."""

from modelyard.registry.v1 import change_pb2


def described(change: change_pb2.Change) -> str:
    """What changed, for a person: `digits: live → 3`."""
    match change.WhichOneof("event"):
        case "version_registered":
            version = change.version_registered.version
            return f"{_model(version.name)}: version {version.number} registered"
        case "version_deleted":
            return _version(change.version_deleted.name, "deleted")
        case "version_loaded":
            return _version(change.version_loaded.name, "to be loaded")
        case "version_unloaded":
            return _version(change.version_unloaded.name, "to be unloaded")
        case "label_moved":
            moved = change.label_moved
            return f"{_model(moved.name)}: {_last(moved.name)} → {moved.version}"
        case "label_rolled_back":
            back = change.label_rolled_back
            return f"{_model(back.name)}: {_last(back.name)} back to {back.version}"
        case "label_removed":
            name = change.label_removed.name
            return f"{_model(name)}: {_last(name)} removed"
        case "route_replaced":
            return f"{_model(change.route_replaced.route.name)}: route replaced"
        case "route_removed":
            return f"{_model(change.route_removed.name)}: route removed"
        case _:  # A registry newer than this client.
            return "another change"


def _version(name: str, what: str) -> str:
    return f"{_model(name)}: version {_last(name)} {what}"


def _model(name: str) -> str:
    return name.split("/")[1]


def _last(name: str) -> str:
    return name.rpartition("/")[2]
