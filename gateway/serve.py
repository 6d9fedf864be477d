"""Composition root: builds the gateway and serves until told to end, whichever process it is in.

Serves on the last view of the registry whatever becomes of it.
"""

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Protocol

import structlog
import yaml
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
from gateway.record import Recorder
from gateway.replicas import Replicas
from gateway.router import Router
from gateway.servicer import GatewayServicer
from gateway.settings import GatewaySettings
from gateway.shipping import Shipper
from gateway.stack import Service, stack
from gateway.tap import Tap
from gateway.workers.group import Group
from gateway.workers.servicer import WorkerServicer
from gateway.workers.siblings import Siblings
from modelyard.catalog.follow import CatalogFollower, HostsFollower
from modelyard.channels import open_channel
from modelyard.contracts import repeatable
from modelyard.errors import InvalidArgument
from modelyard.events.payloads import Payloads
from modelyard.events.writer import Bounds, Writer
from modelyard.gateway.v1 import gateway_service_pb2_grpc, worker_service_pb2_grpc
from modelyard.inference.v2 import open_inference_pb2, open_inference_pb2_grpc
from modelyard.redaction import Redaction, parse
from modelyard.redis_client import connect
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
        tap, shipper = None, None
        if settings.events:
            redact = _redaction(settings)
            tap = Tap(lambda: catalog.catalog, clock, Recorder(settings.events_inline, redact))
            shipper = await ends.enter_async_context(shipping(settings, tap, redact))
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
            shipper=shipper,
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


def _redaction(settings: GatewaySettings) -> Redaction | None:
    """What no log may keep; raises InvalidArgument for rules that are none."""
    if settings.redaction is None:
        return None
    try:
        rules = parse(yaml.safe_load(settings.redaction.read_text(encoding="utf-8")))
        key = settings.redaction_key.read_bytes().strip() if settings.redaction_key else b""
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidArgument(f"redaction: {error}", field="redaction") from None
    return Redaction(rules, key)


@asynccontextmanager
async def shipping(
    settings: GatewaySettings, tap: Tap, redact: Redaction | None
) -> AsyncIterator[Shipper]:
    """Writes what the tap records, until it ends."""
    redis = connect(settings.events)
    bounds = Bounds(settings.events_length, settings.events_bytes, settings.events_age)
    payloads = None
    if settings.payloads:
        payloads = Payloads(settings.payloads, timedelta(seconds=settings.events_age))
    shipper = Shipper(
        tap,
        Writer(redis, bounds),
        payloads,
        inline=settings.events_inline,
        redact=redact,
    )
    shipper.start()
    try:
        yield shipper
    finally:
        await shipper.close()
        await redis.aclose()
