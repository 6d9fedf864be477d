"""Routes that a registry keeps, and those that it refuses."""

import uuid

import pytest

from modelyard.gateway.v1 import route_pb2
from modelyard.registry.v1 import (
    model_pb2,
    route_service_pb2,
)
from modelyard.registry.v1 import registry_service_pb2 as pb
from tests.kit.registry_client import PATIENCE, Client, duration, refusal

ONE = route_pb2.Target(version=1)
NONE_SUCH = route_pb2.Target(version=99)


@pytest.mark.parametrize(
    ("route", "field"),
    [
        (route_pb2.Route(default=NONE_SUCH), "default"),
        (route_pb2.Route(default=route_pb2.Target(label="none-such")), "default"),
        (route_pb2.Route(deadline=duration(0)), "deadline"),
        (route_pb2.Route(deadline=duration(7200)), "deadline"),
        (route_pb2.Route(retry=route_pb2.Retry(max_attempts=6)), "retry.max_attempts"),
        (route_pb2.Route(split=[route_pb2.Share(target=ONE, weight=-1)]), "split[0].weight"),
        (route_pb2.Route(split=[route_pb2.Share(target=ONE)]), "split"),
        (
            route_pb2.Route(
                split=[
                    route_pb2.Share(target=ONE, weight=1),
                    route_pb2.Share(target=NONE_SUCH, weight=1),
                ]
            ),
            "split[1]",
        ),
        (route_pb2.Route(split=[route_pb2.Share(weight=1)]), "split[0]"),
        (route_pb2.Route(sticky="user"), "sticky"),
        (route_pb2.Route(match=[route_pb2.Match(target=ONE)]), "match[0].metadata"),
        (
            route_pb2.Route(match=[route_pb2.Match(metadata={"Upper": "x"}, target=ONE)]),
            "match[0].metadata",
        ),
        (route_pb2.Route(hedge=route_pb2.Hedge(max_extra_load=2)), "hedge.max_extra_load"),
        (
            route_pb2.Route(hedge=route_pb2.Hedge(max_extra_load=float("nan"))),
            "hedge.max_extra_load",
        ),
        (route_pb2.Route(rendezvous=[route_pb2.Rendezvous(target=ONE)]), "rendezvous"),
        (
            route_pb2.Route(shadow=[route_pb2.Shadow(target=ONE, sample=1.5)]),
            "shadow[0].sample",
        ),
        (
            route_pb2.Route(
                deadline=duration(1),
                fallback=[route_pb2.Fallback(target=ONE, after=duration(1))],
            ),
            "fallback[0].after",
        ),
        (
            route_pb2.Route(fallback=[route_pb2.Fallback(constant=route_pb2.Constant())]),
            "fallback[0].constant",
        ),
        (route_pb2.Route(fallback=[route_pb2.Fallback()]), "fallback[0]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("validate_only", [True, False])
def test_a_wrong_route_names_its_field(
    client: Client, file: model_pb2.File, route: route_pb2.Route, field: str, validate_only: bool
) -> None:
    model = "routed"
    request = pb.RegisterVersionRequest(model=model, files=[file])
    client.registry.RegisterVersion(request, timeout=PATIENCE)
    route = route_pb2.Route.FromString(route.SerializeToString())
    route.name = f"models/{model}/route"
    refused = refusal(
        client.routes.ReplaceRoute,
        route_service_pb2.ReplaceRouteRequest(route=route, validate_only=validate_only),
    )
    assert (refused.reason, refused.metadata["field"]) == ("INVALID_ROUTE", field)
    assert refused.message.startswith(field)
    assert len(client.changes(model)) == 1


def test_a_route_follows_its_etag_and_its_request(
    client: Client, file: model_pb2.File, model: str
) -> None:
    client.register(model, file)
    name = f"models/{model}/route"

    def replace(version: int, **given: str) -> route_service_pb2.ReplaceRouteRequest:
        route = route_pb2.Route(
            name=name,
            default=route_pb2.Target(version=version),
            etag=given.pop("etag", ""),
        )
        return route_service_pb2.ReplaceRouteRequest(route=route, **given)

    request_id = str(uuid.uuid4())
    first = client.routes.ReplaceRoute(
        replace(1, etag="0", request_id=request_id), timeout=PATIENCE
    )
    client.register(model, file)
    second = client.routes.ReplaceRoute(replace(2, etag=first.route.etag), timeout=PATIENCE)
    refused = refusal(client.routes.ReplaceRoute, replace(1, etag=first.route.etag))
    assert (refused.reason, refused.metadata["etag"]) == ("STALE_ETAG", second.route.etag)
    again = replace(1, etag="0", request_id=request_id)
    assert client.routes.ReplaceRoute(again, timeout=PATIENCE) == first
    held = client.routes.GetRoute(route_service_pb2.GetRouteRequest(name=name), timeout=PATIENCE)
    assert held.route == second.route

    delete = pb.DeleteVersionRequest(name=f"models/{model}/versions/2")
    in_use = refusal(client.registry.DeleteVersion, delete)
    assert (in_use.reason, in_use.metadata["held_by"]) == ("VERSION_IN_USE", "the route")
    stale = route_service_pb2.RemoveRouteRequest(name=name, etag=first.route.etag)
    assert refusal(client.routes.RemoveRoute, stale).reason == "STALE_ETAG"
    client.routes.RemoveRoute(
        route_service_pb2.RemoveRouteRequest(name=name, etag=second.route.etag), timeout=PATIENCE
    )
    client.registry.DeleteVersion(delete, timeout=PATIENCE)
