"""Modelyard: model-as-a-service over gRPC.

`Client`, `AsyncClient` and `embedded` are loaded when they are first used, so that `import
modelyard` costs nothing and works beside every other client of the Open Inference Protocol.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelyard.client import AsyncClient, Client, Inference

__version__ = "0.1.0"

__all__ = ["AsyncClient", "Client", "Inference", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client", "Inference"):
        from modelyard import client

        return getattr(client, name)
    if name == "embedded":
        # By its name: whoever imports `modelyard`, as every room does, does not import rooms.
        return import_module("modelyard.embedded")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
