"""Calls that flow while things change, and what became of each."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from modelyard.client import Client
from modelyard.errors import ModelyardError

# Enough to see each moment of a hand-over; few enough to leave two small cores room for it.
_CALLERS = 3
_PAUSE = 0.003
_DEADLINE = 10.0
# What answers beside primaries.
_OTHERS = ("retry", "hedge", "fallback", "default")


@dataclass
class Count:
    """What became of the calls.

    Attributes:
        answers: By version number.
        right: Of those, the ones that named the digit in the image.
        attempts: By attempt, such as `primary` and `retry`.
        kinds: By version number and attempt.
        failures: By the error's reason and text.
    """

    answers: Counter[int] = field(default_factory=Counter)
    right: Counter[int] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[tuple[int, str]] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """How many failed."""
        return self.failures.total()

    def line(self) -> str:
        """For a person: `version 1: 120, version 2: 40; failed: 0`."""
        by_version = ", ".join(f"version {n}: {self.answers[n]}" for n in sorted(self.answers))
        others = [f"{self.attempts[k]} by a {k}" for k in _OTHERS if self.attempts[k]]
        told = f" ({', '.join(others)})" if others else ""
        return f"{by_version or 'no answers yet'}{told}; failed: {self.failed}"


class Flow:
    """Callers that ask a model about images, one after the other, until they are stopped.

    Args:
        client: Shared by all callers.
        model: The model's name.
        images: float32 of shape [N, 64].
        digits: int64 of shape [N].
        count: Takes what becomes of each call.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        images: NDArray[np.float32],
        digits: NDArray[np.int64],
        count: Count,
    ) -> None:
        self.count = count
        self._client = client
        self._model = model
        self._images = images
        self._digits = digits
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._telling = threading.Event()
        self._changed = threading.Condition(self._lock)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Calls flow while the block runs."""
        callers = [
            threading.Thread(target=self._call, args=(seed,), daemon=True)
            for seed in range(_CALLERS)
        ]
        for caller in callers:
            caller.start()
        try:
            yield
        finally:
            self._stop.set()
            for caller in callers:
                caller.join()

    @contextmanager
    def telling_truths(self) -> Iterator[None]:
        """While the block runs, callers tell what the images really showed."""
        self._telling.set()
        try:
            yield
        finally:
            self._telling.clear()

    def wait_for(self, version: int | None, calls: int, timeout: float = 30.0) -> bool:
        """Returns after so many more answers (of one version); False when time is over."""
        with self._changed:
            start = self._answers(version)
            return self._changed.wait_for(lambda: self._answers(version) - start >= calls, timeout)

    def wait_for_attempt(self, kind: str, calls: int, timeout: float = 30.0) -> bool:
        """Returns after so many more answers by attempts of a kind; False when time is over."""
        attempts = self.count.attempts
        with self._changed:
            start = attempts[kind]
            return self._changed.wait_for(lambda: attempts[kind] - start >= calls, timeout)

    def _answers(self, version: int | None) -> int:
        answers = self.count.answers
        return answers.total() if version is None else answers[version]

    def _call(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self._stop.wait(_PAUSE):
            index = chance.randrange(len(self._images))
            image = self._images[index : index + 1]
            try:
                answer = self._client.infer(self._model, {"X": image}, deadline=_DEADLINE)
                if self._telling.is_set():
                    truth = {"label": [int(self._digits[index])]}
                    self._client.feedback(self._model, answer.request_id, truth)
            except ModelyardError as error:
                with self._changed:
                    self.count.failures[f"{error.reason}: {error.message}"] += 1
                    self._changed.notify_all()
                continue
            version = answer.version or 0
            with self._changed:
                self.count.answers[version] += 1
                self.count.right[version] += bool(answer["label"][0] == self._digits[index])
                self.count.attempts[answer.attempt] += 1
                self.count.kinds[version, answer.attempt] += 1
                self._changed.notify_all()
