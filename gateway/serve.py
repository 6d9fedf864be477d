"""Composition root: builds the gateway and serves until told to end, whichever process it is in.

Serves on the last view of the registry whatever becomes of it.
"""

import asyncio
import gc
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Protocol

import structlog
from prometheus_client import generate_latest

from gateway import contracts
from gateway.access_log import AccessLog
from gateway.catalogue import Catalogue
from gateway.control import SHADOW_FILES, CatchUp, ControlPlane
from gateway.defaults import Defaults
from gateway.fronts.grpc_front import InferenceFront
from gateway.guards import Guards
from gateway.lanes.connector import connector
from gateway.meter import Meter
from gateway.metrics import TrafficCollector
from gateway.race import Racer
from gateway.recorder.link import RecorderLink
from gateway.replicas import Replicas
from gateway.router import Router
from gateway.servicer import GatewayServicer
from gateway.settings import GatewaySettings
from gateway.stack import Service, stack
from gateway.tap import Tap
from gateway.workers.group import Group
from gateway.workers.servicer import WorkerServicer
from gateway.workers.siblings import Siblings
from modelyard.catalog.follow import CatalogFollower, HostsFollower
from modelyard.channels import open_channel
from modelyard.contracts import repeatable
from modelyard.gateway.v1 import gateway_service_pb2_grpc, worker_service_pb2_grpc
from modelyard.inference.v2 import open_inference_pb2, open_inference_pb2_grpc
from modelyard.server import Server
from modelyard.telemetry import Metrics, registry_of, traced

_log = structlog.get_logger(__name__)


_SERVICE = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
INFER = _SERVICE.methods_by_name["ModelInfer"]


class Outer(Protocol):
    """A front before the grpc.aio server."""

    async def open(self, service: Service, clock: Callable[[], float]) -> str:
        """Takes calls from now on; gives the address at which."""
        ...

    async def leave(self) -> None:
        """Asks callers to go; calls under way go on."""
        ...

    async def drained(self) -> None:
        """Returns when no caller is left, or the grace is over."""
        ...


async def serve(
    settings: GatewaySettings,
    ending: asyncio.Event,
    outer: Outer | None = None,
    group: Group | None = None,
) -> None:
    """Serves until told to end.

    Args:
        settings: What the gateway is told.
        ending: Tells it to end.
        outer: What stands before the grpc.aio server; None where callers reach that directly.
        group: The processes behind one port of which this is one; None where it is alone.

    Raises:
        FailedPrecondition: An address is taken.
        InvalidArgument: The rules of redaction, or a Redis URL, are none.
    """
    # Not the loop's: uvloop's counts whole milliseconds.
    clock = time.monotonic
    async with AsyncExitStack() as ends:
        # Uploads and watches share the channel with nothing that a caller waits for.
        following = open_channel(settings.registry)
        control = open_channel(
            settings.registry, pool_index=1, max_message_bytes=settings.max_message_bytes
        )
        ends.push_async_callback(following.close)
        ends.push_async_callback(control.close)
        catalog, hosts = CatalogFollower(following), HostsFollower(following)
        meter = Meter()
        replicas = Replicas(
            connector(settings.lane, settings.max_message_bytes), clock, random.Random()
        )
        ends.push_async_callback(replicas.close)
        router = Router(
            *(lambda: catalog.catalog, clock, settings.default_deadline, settings.max_attempts),
            repeatable=repeatable(INFER),
        )
        share = 1.0 if group is None else group.share
        guards = Guards(replicas, clock, random.Random(), share)
        catalog.on_change(
            lambda now: guards.forget(
                frozenset(v.name for m in now.models.values() for v in m.versions.values())
            )
        )
        tracing = ends.enter_context(traced("gateway", settings.otlp_endpoint))
        defaults = Defaults(lambda: catalog.catalog, clock)
        racer = Racer(replicas, guards, defaults, meter, clock, tracing)
        access = AccessLog(settings.access_log, clock)
        tap, recorder = None, None
        if settings.events:
            tap = Tap(lambda: catalog.catalog, clock)
            recorder = RecorderLink(tap, settings, clock)
            recorder.start()
            ends.push_async_callback(recorder.close)
        service = stack(router, racer, meter, access, clock, tap=tap, tracing=tracing)
        siblings: Siblings | None = None
        catch_up: CatchUp = catalog.wait_for
        if group is not None:
            siblings = Siblings(group, settings.max_message_bytes, clock, router.default_deadline)
            ends.push_async_callback(siblings.close)
            service = siblings.handing_on(service)
            catch_up = siblings.catching_up(catalog.wait_for)

        server = Server(settings, contracts.services(bool(settings.shadow)))
        # The front comes before the servicer, which knows the same two methods by name.
        server.add_generic_rpc_handlers(
            (InferenceFront(service, clock), ControlPlane(control, catch_up))
        )
        if settings.shadow:
            shadow = open_channel(settings.shadow, pool_index=2)
            ends.push_async_callback(shadow.close)
            plane = ControlPlane(shadow, catch_up, SHADOW_FILES, "shadow service")
            server.add_generic_rpc_handlers((plane,))
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            Catalogue(
                lambda: catalog.catalog,
                lambda: hosts.hosts,
                lambda: catalog.heard_at is not None,
                replicas,
                control,
            ),
            server.handlers,
        )
        gateway = GatewayServicer(
            *(meter, replicas, router, guards),
            *(lambda: catalog.catalog, lambda: catalog.heard_at, clock),
            tap=tap,
            recorder=recorder,
            siblings=siblings,
            index=0 if group is None else group.index,
        )
        gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server(gateway, server.handlers)
        collectors = [TrafficCollector(meter, replicas, guards, clock, tap)]
        if group is not None:
            text = partial(generate_latest, registry_of(collectors))
            worker = WorkerServicer(gateway, text, catalog.wait_for)
            worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server.handlers)
        elif settings.metrics_listen:
            metrics = Metrics(settings.metrics_listen, collectors)
            ends.callback(metrics.close)
        if recorder is not None:
            # Before anybody hears of this gateway: a setting may be wrong.
            await recorder.ready()
        address = await server.start()
        hosts.on_change(replicas.update)
        catalog.start()
        ends.push_async_callback(catalog.stop)
        hosts.start()
        ends.push_async_callback(hosts.stop)
        # Of models without their hosts no call could be answered.
        heard = all(
            await asyncio.gather(
                catalog.wait_heard(settings.first_view), hosts.wait_heard(settings.first_view)
            )
        )
        # What is loaded now lives as long as the process: the collector need not look at it.
        gc.collect()
        gc.freeze()
        if outer is not None:
            address = await outer.open(service, clock)
        await server.serving()
        event = "serving" if group is None else f"worker {group.index} serves"
        _log.info(event, address=address, revision=catalog.revision, registry_heard=heard)
        await ending.wait()
        _log.info("draining")
        await server.leave()
        if outer is not None:
            await outer.leave()
            # Who only watches health holds nothing up.
            server.health.close()
            await outer.drained()
        # Behind a front nobody is left who could wait: a second grace would be for nobody.
        await server.stop(at_once=outer is not None)
        await racer.close()
