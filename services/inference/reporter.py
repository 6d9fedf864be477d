"""Tells the registry which hosts there are, at each change and every so often."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta

import structlog

from modelyard.errors import ModelyardError
from modelyard.registry.v1 import host_pb2, host_service_pb2
from services.inference.lifecycle import Host, Phase

_log = structlog.get_logger(__name__)

_STATES = {
    Phase.PENDING: host_pb2.Host.STATE_PENDING,
    Phase.LOADING: host_pb2.Host.STATE_LOADING,
    Phase.SERVING: host_pb2.Host.STATE_SERVING,
    Phase.DRAINING: host_pb2.Host.STATE_DRAINING,
    Phase.STOPPING: host_pb2.Host.STATE_FAILED,
    Phase.FAILED: host_pb2.Host.STATE_FAILED,
}
# A burst of changes is one report.
_GATHER = 0.01

Send = Callable[[host_service_pb2.ReportHostsRequest], Awaitable[None]]


def to_proto(host: Host, offset: float, machine: str, pool: str = "") -> host_pb2.Host:
    """A host as the registry knows it.

    Args:
        host: The host.
        offset: From its clock to Unix time, in seconds.
        machine: Where it runs.
        pool: Whom it answers.
    """
    message = host_pb2.Host(
        id=host.id,
        version=str(host.version),
        state=_STATES[host.phase],
        address=host.address,
        frames_address=host.frames_address,
        reason=host.reason,
        restarts=host.restarts,
        machine=machine,
        pid=host.pid,
        stage=host.stage,
        pool=pool,
    )
    message.state_time.FromNanoseconds(int((host.since + offset) * 1e9))
    return message


class Reporter:
    """Reports in the background. A registry that is away delays nothing but the report.

    Args:
        send: Sends one report; raises ModelyardError when it did not arrive.
        supervisor: Who reports; the same over restarts.
        pool: Whom its hosts answer.
        every: A report without a change, in seconds.
        ttl: How long the registry believes a report, in seconds.
    """

    def __init__(
        self,
        send: Send,
        *,
        supervisor: str,
        pool: str = "",
        every: float = 2.0,
        ttl: float = 10.0,
    ) -> None:
        self._send = send
        self._supervisor = supervisor
        self._pool = pool
        self._every = every
        self._ttl = timedelta(seconds=ttl)
        self._machine = socket.gethostname()
        # Fixed, so that a state that did not change keeps its time to the nanosecond.
        self._offset = time.time() - time.monotonic()
        self._hosts: tuple[Host, ...] | None = None
        self._offered = 0
        self._delivered = 0
        self._changed = asyncio.Event()
        self._arrived = asyncio.Condition()

    def offer(self, hosts: Iterable[Host]) -> None:
        """The hosts as they are now; reported soon when they changed."""
        now = tuple(sorted(hosts, key=lambda host: (host.version, host.id)))
        if now != self._hosts:
            self._hosts = now
            self._offered += 1
            self._changed.set()

    async def delivered(self, timeout: float) -> bool:
        """Waits until the registry has what was offered last; False when it takes longer."""
        target = self._offered
        try:
            async with asyncio.timeout(timeout), self._arrived:
                await self._arrived.wait_for(lambda: self._delivered >= target)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Reports until it is cancelled."""
        away = False
        while True:
            try:
                async with asyncio.timeout(self._every):
                    await self._changed.wait()
                    await asyncio.sleep(_GATHER)
            except TimeoutError:
                pass
            if self._hosts is None:
                # Not known yet: a report would end the leases of hosts that live.
                continue
            self._changed.clear()
            number = self._offered
            try:
                await self._send(self._request(self._hosts))
            except ModelyardError as error:
                if not away:
                    _log.warning("the registry does not take reports", error=error.message)
                away = True
                self._changed.set()
                # The channel reconnects at its own pace; this only keeps the loop from spinning.
                await asyncio.sleep(0.2)
                continue
            if away:
                _log.info("the registry takes reports again")
            away = False
            async with self._arrived:
                self._delivered = number
                self._arrived.notify_all()

    def _request(self, hosts: Iterable[Host]) -> host_service_pb2.ReportHostsRequest:
        request = host_service_pb2.ReportHostsRequest(
            supervisor=self._supervisor,
            hosts=[to_proto(host, self._offset, self._machine, self._pool) for host in hosts],
        )
        request.ttl.FromTimedelta(self._ttl)
        return request
