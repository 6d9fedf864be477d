"""The models of one process: loaded from files, warm, in a catalogue that never changes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from modelyard import catalog as m
from modelyard.catalog.model import frozen
from modelyard.errors import InvalidArgument, InvalidArtifact, InvalidName
from modelyard.names import LIVE, VersionName, check_model
from services.inference.host.session import OnnxModel, SessionSettings
from services.inference.host.signature import Tensor
from services.inference.host.warm import synthesize, warm

# A model that never ran on its made-up input has told nothing of its speed (nanoseconds).
_UNKNOWN = 1e9


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to answer.

    Attributes:
        version: Its name here; the number is always 1.
        path: Where it came from.
        model: What runs it.
        usual_ns: How long a run takes (nanoseconds).
    """

    version: VersionName
    path: Path
    model: OnnxModel
    usual_ns: float


def named(arguments: Sequence[str]) -> dict[str, Path]:
    """Files by their models' names: `NAME=FILE`, or a FILE whose own name is the model's.

    Raises:
        InvalidName: A name is none.
        InvalidArgument: Two files have one name.
    """
    files: dict[str, Path] = {}
    for argument in arguments:
        before, equals, after = argument.partition("=")
        # A file that has an equals sign in its path is meant, where there is one.
        if equals and not Path(argument).exists():
            name, path = before, Path(after)
        else:
            path = Path(argument)
            name = path.stem
        if name in files:
            raise InvalidArgument(f"two files are named {name!r}: give one as NAME={path}")
        files[_checked(name, path)] = path
    return files


def _checked(name: str, path: Path) -> str:
    try:
        return check_model(name)
    except InvalidName as error:
        raise InvalidName(f"{error.message}; give it one: NAME={path}", field="model") from None


def load(files: Mapping[str, Path], settings: SessionSettings) -> tuple[Loaded, ...]:
    """Loads and warms models as hosts do; takes as long as onnxruntime does.

    Raises:
        InvalidName: A name is none.
        InvalidArtifact: A file is not there, or is no model that can be served; its path leads.
        InvalidArgument: An execution provider is not available here.
    """
    return tuple(_load(check_model(name), path, settings) for name, path in files.items())


def _load(name: str, path: Path, settings: SessionSettings) -> Loaded:
    try:
        if not path.exists():
            raise InvalidArtifact("is not there")
        if path.is_file() and not path.stat().st_size:
            raise InvalidArtifact("is empty")
        model = OnnxModel(path, settings)
    except InvalidArtifact as error:
        raise InvalidArtifact(f"{path}: {error.message}", file=str(path)) from error.__cause__
    except OSError as error:
        raise InvalidArtifact(f"{path}: {error.strerror}", file=str(path)) from None
    usual = warm(model, synthesize(model.signature))
    return Loaded(VersionName(name, 1), path, model, usual if math.isfinite(usual) else _UNKNOWN)


def catalogue(models: Iterable[Loaded], now: datetime) -> m.Catalog:
    """Each model with its one version, which is live."""
    return m.Catalog(
        revision=1, models=frozen({model.version.model: _entry(model, now) for model in models})
    )


def _entry(loaded: Loaded, now: datetime) -> m.Model:
    signature = loaded.model.signature
    version = m.Version(
        name=loaded.version,
        # Nobody registered it, so there is nothing that it could be compared with.
        digest="",
        files=(),
        signature=m.Signature(_tensors(signature.inputs), _tensors(signature.outputs)),
        created=now,
        loaded=True,
    )
    number = version.name.number
    return m.Model(
        name=version.name.model,
        created=now,
        versions=frozen({number: version}),
        labels=frozen({LIVE: m.Label(LIVE, number, revision=1, moved=now)}),
        last_number=number,
    )


def _tensors(tensors: Iterable[Tensor]) -> tuple[m.Tensor, ...]:
    return tuple(
        m.Tensor(
            t.name, t.datatype, tuple("" if d is None else d for d in t.shape), optional=t.optional
        )
        for t in tensors
    )
