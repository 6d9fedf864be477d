"""What is registered: models, their versions and labels. Values, never changed in place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TypeVar

from modelyard.names import VersionName

K = TypeVar("K")
V = TypeVar("V")


def frozen(items: Mapping[K, V] | None = None) -> Mapping[K, V]:
    """A copy that nobody changes."""
    return MappingProxyType(dict(items or {}))


@dataclass(frozen=True, slots=True)
class Tensor:
    """The type of an input or an output.

    Attributes:
        name: The tensor's name.
        datatype: As the Open Inference Protocol names it, such as FP32.
        shape: A fixed size, or the symbol of one that varies ("" when it has no name).
        optional: True when a request may leave the input out.
    """

    name: str
    datatype: str
    shape: tuple[int | str, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes in and what comes out."""

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """One file of an artifact: its path there, its `sha256:` digest, its size in bytes."""

    path: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a model file says of itself, and which onnxruntime tried it."""

    producer: str = ""
    ir_version: int = 0
    opsets: Mapping[str, int] = field(default_factory=frozen)
    tested_with: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable version; only `loaded` and `shadowed` ever change: who has asked for hosts."""

    name: VersionName
    digest: str
    files: tuple[File, ...]
    signature: Signature
    created: datetime
    provenance: Provenance = Provenance()
    metadata: Mapping[str, str] = field(default_factory=frozen)
    golden: File | None = None
    loaded: bool = False
    shadowed: bool = False

    @property
    def size(self) -> int:
        """Of all files together, in bytes."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Label:
    """A name that points at a version.

    Attributes:
        name: The label.
        version: The number that it points at.
        revision: Of its last move; as text, its etag.
        moved: When it last moved.
        earlier: The numbers that it pointed at before, the latest first.
    """

    name: str
    version: int
    revision: int
    moved: datetime
    earlier: tuple[int, ...] = ()

    @property
    def etag(self) -> str:
        """Changes with every move."""
        return str(self.revision)


@dataclass(frozen=True, slots=True)
class Model:
    """A family of versions.

    Attributes:
        name: The model's name.
        created: When its first version was registered.
        versions: By number.
        labels: By name.
        last_number: The highest number ever given; deleted ones are never given again.
    """

    name: str
    created: datetime
    versions: Mapping[int, Version] = field(default_factory=frozen)
    labels: Mapping[str, Label] = field(default_factory=frozen)
    last_number: int = 0
