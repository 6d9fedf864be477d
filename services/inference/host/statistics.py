"""What a host counts: calls by outcome, and time by stage."""

import asyncio
import time
from dataclasses import dataclass, field

from modelyard.errors import DeadlineExceeded


@dataclass(slots=True)
class Duration:
    """How often, and how long in all (nanoseconds)."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Counts one more."""
        self.count += 1
        self.ns += ns


@dataclass(slots=True)
class Statistics:
    """Since the host began.

    Attributes:
        success: Whole calls that were answered.
        fail: Whole calls that ended in an error, the caller's cancellation included.
        cancel: Those of `fail` that the caller gave up or whose time was over.
        queue: Between a call's arrival at the model and its run; each call that ran.
        compute_input: Decoding.
        compute_infer: Running.
        compute_output: Encoding.
        executions: Runs that came to their end.
        last_inference_ms: When the last call was answered, since the epoch.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    executions: int = 0
    last_inference_ms: int = 0

    def answered(self, began: int, decoded: int, queued: int, ran: int, encoded: int) -> None:
        """Counts one answered call.

        Args:
            began: When the call came (nanoseconds, on a monotonic clock).
            decoded: When its inputs were decoded.
            queued: How long it waited for its run.
            ran: How long it ran.
            encoded: When its answer was ready.
        """
        total = encoded - began
        decoding = decoded - began
        self.success.add(total)
        self.queue.add(queued)
        self.compute_input.add(decoding)
        self.compute_infer.add(ran)
        self.compute_output.add(max(0, total - decoding - queued - ran))
        self.last_inference_ms = time.time_ns() // 1_000_000

    def failed(self, ns: int, error: BaseException) -> None:
        """Counts one call that ended in an error after `ns` nanoseconds."""
        self.fail.add(ns)
        if isinstance(error, asyncio.CancelledError | DeadlineExceeded):
            self.cancel.add(ns)
