"""Sees that a version serves before a label moves to it."""

import asyncio

from modelyard.catalog import Host, HostState
from modelyard.catalog.hosts import CALLERS
from modelyard.errors import VersionNotServing
from modelyard.names import LabelName, VersionName
from services.registry import decide
from services.registry.hosts import Leases
from services.registry.registry import Registry

# Unless the caller says otherwise: a hand-over waits so long for its version, in seconds.
HAND_OVER = 600.0


class HandOver:
    """Loads ahead and waits.

    Args:
        registry: Where the load is written.
        leases: Tell who serves.
    """

    def __init__(self, registry: Registry, leases: Leases) -> None:
        self._registry = registry
        self._leases = leases

    async def prepare(
        self, name: LabelName, number: int, *, actor: str, note: str, timeout: float | None
    ) -> None:
        """Sees that a version serves before it takes over from one that does.

        Raises:
            VersionNotServing: Its hosts fail, or the call's time is over; the label stays.
        """
        label = self._registry.catalog.model(name.model).labels.get(name.label)
        target = VersionName(name.model, number)
        if label is None or not self._serving(VersionName(name.model, label.version)):
            return
        if self._serving(target):
            return
        await self._registry.commit(
            lambda catalog: None if target in catalog.wanted() else decide.load(catalog, target),
            actor=actor,
            note=note or f"before it becomes {name.label}",
        )
        loop = asyncio.get_running_loop()
        until = loop.time() + (timeout or HAND_OVER)
        while not self._serving(target):
            left = until - loop.time() - 0.05
            failed = [h for h in self._of(target) if h.state is HostState.FAILED or h.restarts > 1]
            if failed or left <= 0:
                why = failed[0].reason if failed else "it did not serve in time"
                raise VersionNotServing(
                    f"{name} stays: {target} does not serve: {why}", version=str(target)
                )
            await self._leases.changed(min(left, 1.0))

    def _of(self, version: VersionName) -> list[Host]:
        return [h for h in self._leases.hosts if h.version == version and h.pool == CALLERS]

    def _serving(self, version: VersionName) -> bool:
        return any(host.state is HostState.SERVING for host in self._of(version))
