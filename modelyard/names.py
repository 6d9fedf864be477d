"""Names of resources: `models/{model}`, `.../versions/{n}`, `.../labels/{label}`."""

import re
from dataclasses import dataclass
from typing import NamedTuple, Self

from modelyard.errors import InvalidName

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LABEL = re.compile(r"[a-z][a-z0-9-]{0,62}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")

LIVE = "live"
# Follows `live`: the version that was live before. Kept by the registry, not by people.
PREVIOUS = "previous"


def check_model(model: str) -> str:
    """Returns the model's name; raises InvalidName when it is none."""
    if not _MODEL.fullmatch(model):
        raise InvalidName(
            f"model name {model!r}: 1 to 128 of letters, digits, '.', '_' and '-',"
            " beginning with a letter or a digit",
            field="model",
        )
    return model


def check_label(label: str) -> str:
    """Returns the label; raises InvalidName when it is none."""
    if not _LABEL.fullmatch(label):
        raise InvalidName(
            f"label {label!r}: 1 to 63 of small letters, digits and '-', beginning with a letter",
            field="label",
        )
    return label


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """`models/{model}`."""

    model: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Reads a resource name; raises InvalidName."""
        match name.split("/"):
            case ["models", model]:
                return cls(check_model(model))
        raise InvalidName(f"{name!r} is not of the form models/MODEL", field="name")

    def __str__(self) -> str:
        return f"models/{self.model}"


class VersionName(NamedTuple):
    """`models/{model}/versions/{number}`; a tuple, for each call looks things up by it."""

    model: str
    number: int

    @classmethod
    def parse(cls, name: str) -> Self:
        """Reads a resource name; raises InvalidName."""
        match name.split("/"):
            case ["models", model, "versions", number] if _VERSION.fullmatch(number):
                return cls(check_model(model), int(number))
        raise InvalidName(f"{name!r} is not of the form models/MODEL/versions/N", field="name")

    def __str__(self) -> str:
        return f"models/{self.model}/versions/{self.number}"


@dataclass(frozen=True, slots=True, order=True)
class LabelName:
    """`models/{model}/labels/{label}`."""

    model: str
    label: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Reads a resource name; raises InvalidName."""
        match name.split("/"):
            case ["models", model, "labels", label]:
                return cls(check_model(model), check_label(label))
        raise InvalidName(f"{name!r} is not of the form models/MODEL/labels/LABEL", field="name")

    def __str__(self) -> str:
        return f"models/{self.model}/labels/{self.label}"


def is_version_number(text: str) -> bool:
    """Tells whether the text of a request's `model_version` is a number, not a label."""
    return _VERSION.fullmatch(text) is not None
