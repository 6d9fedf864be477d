"""Steady traffic on a model of tests.kit.scale, and who answered each call and when."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from modelyard.client import Client
from modelyard.errors import ModelyardError

X = np.ones((1, 2), np.float32)


@dataclass(frozen=True)
class Served:
    """One answered call: the version, when it began and ended, which attempt answered, its id."""

    version: int
    began: float
    ended: float
    attempt: str = ""
    request_id: str = ""


@dataclass
class Traffic:
    """Calls from several threads while the block runs.

    Attributes:
        address: Of the gateway.
        model: What is called.
        threads: Callers.
        deadline: Of each call, in seconds.
        inputs: Of each call.
        pause: Between two calls of a caller, in seconds.
        answers: Each answered call.
        failures: Each failed call.
    """

    address: str
    model: str
    threads: int = 4
    deadline: float = 20.0
    inputs: Mapping[str, Any] = field(default_factory=lambda: {"X": X})
    pause: float = 0.002
    answers: list[Served] = field(default_factory=list)
    failures: list[ModelyardError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ending = threading.Event()
        self._callers = [threading.Thread(target=self._call) for _ in range(self.threads)]

    def _call(self) -> None:
        with Client(self.address) as client:
            while not self._ending.is_set():
                began = time.monotonic()
                try:
                    answer = client.infer(self.model, self.inputs, deadline=self.deadline)
                except ModelyardError as error:
                    self.failures.append(error)
                    continue
                number = answer.served_by.number if answer.served_by else 0
                now = time.monotonic()
                self.answers.append(Served(number, began, now, answer.attempt, answer.request_id))
                time.sleep(self.pause)

    def wait_for(self, more: int, timeout: float = 60.0) -> None:
        """Waits until so many more calls were answered."""
        target = len(self.answers) + more
        end = time.monotonic() + timeout
        while len(self.answers) < target:
            assert time.monotonic() < end, f"only {len(self.answers)} of {target} answers"
            time.sleep(0.01)

    def __enter__(self) -> Self:
        for caller in self._callers:
            caller.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        for caller in self._callers:
            caller.join(60.0)
