"""Between the process that starts Envoy and the gateway inside it."""

from typing import Any, Final, TypedDict

# In the environment: `Told`, as JSON.
TOLD: Final = "MODELYARD_GATEWAY_INSIDE"
# On the link, from the process that started Envoy.
DRAIN: Final = b"d"


class Told(TypedDict):
    """What the process that started Envoy says.

    Attributes:
        settings: The gateway's.
        folder: Of `config.Files`.
        link: A socket to that process, by number.
        resets: A pipe that Envoy writes into, by number.
        python: The program of this Python, which Envoy's own does not know.
        group: Of the `gateway.workers.group.Group` that it is one of; None where it is alone.
    """

    settings: dict[str, Any]
    folder: str
    link: int
    resets: int
    python: str
    group: dict[str, Any] | None
