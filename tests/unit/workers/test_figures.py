"""Several processes as one: statuses, tallies, what became of attempts."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from gateway.figures import Figures, Looks, heard, observed_of, pending_of, status_of, told
from gateway.meter import Meter, Tally, summed
from gateway.plan import Kind
from gateway.survival import Observed, curve
from modelyard.gateway.v1 import gateway_service_pb2 as pb
from modelyard.names import VersionName

V1 = VersionName("m", 1)
SECONDS = st.floats(1e-5, 10.0)


def status(
    revision: int = 1, index: int = 0, staleness: float | None = 0.0
) -> pb.GetStatusResponse:
    made = pb.GetStatusResponse(revision=revision)
    made.workers.add(index=index, pid=100 + index, revision=revision)
    if staleness is not None:
        made.staleness.FromTimedelta(timedelta(seconds=staleness))
    return made


def of(process: str, meter: Meter, made: pb.GetStatusResponse | None = None) -> Figures:
    return Figures(process, made or status(), meter.copy())


def meter_of(*latencies: float) -> Meter:
    meter = Meter()
    for latency in latencies:
        meter.started(("m", 1), Kind.PRIMARY)
        meter.answered(("m", 1), latency)
        meter.won(("m", 1), Kind.PRIMARY)
    return meter


@given(st.lists(SECONDS), st.lists(SECONDS))
def test_the_sum_of_two_is_what_one_would_have_counted(one, other) -> None:
    (key, whole), *_ = [*meter_of(*one, *other).copy().items(), (None, None)]
    got = summed([meter_of(*one).copy(), meter_of(*other).copy()])
    if key is None:
        assert got == {}
        return
    assert got[key].latencies == whole.latencies
    assert (got[key].succeeded, got[key].attempts) == (whole.succeeded, whole.attempts)


@given(st.lists(st.tuples(st.sampled_from(["answer", "cancel", "fail"]), SECONDS), min_size=1))
def test_curves_of_two_are_those_of_one(events) -> None:
    whole, halves = Observed(), (Observed(), Observed())
    for index, (what, seconds) in enumerate(events):
        for observed in (whole, halves[index % 2]):
            observed.fail() if what == "fail" else getattr(observed, what)(seconds)
    both = observed_of(Figures(str(i), status(), {}, {V1: half}) for i, half in enumerate(halves))
    assert curve(both[V1]) == curve(whole)


def test_figures_travel_whole() -> None:
    meter = meter_of(0.001, 0.1)
    meter.failed(("m", 0))
    meter.exhausted(V1)
    meter.cancelled(("m", 1), Kind.HEDGE)
    observed = Observed()
    observed.answer(0.2)
    observed.cancel(0.3)
    observed.fail()
    sent = Figures("p", status(7), meter.copy(), {V1: observed})
    got = heard(told(sent))
    assert (got.process, got.status, got.tallies) == (sent.process, sent.status, sent.tallies)
    assert curve(got.observed[V1]) == curve(observed)


def test_the_status_is_the_worst_of_all() -> None:
    one, other = status(8, 1, 0.5), status(7, 0, 2.5)
    for made, pending, latency, lane in ((one, 2, 0.1, "frames"), (other, 3, 0.2, "grpc")):
        replica = made.replicas.add(host="h", version=str(V1), pending=pending, lane=lane)
        replica.latency.FromTimedelta(timedelta(seconds=latency))
        made.event_log.recorded, made.event_log.dropped = 10, pending
    one.replicas[0].resting = True
    other.replicas.add(host="h2", version=str(V1), pending=1, lane="grpc")
    before = pb.GetStatusResponse.FromString(one.SerializeToString())
    whole = status_of([Figures("a", one, {}), Figures("b", other, {})])
    assert whole.revision == 7
    assert whole.staleness.ToTimedelta() == timedelta(seconds=2.5)
    assert [(w.index, w.pid, w.revision) for w in whole.workers] == [(0, 100, 7), (1, 101, 8)]
    first, second = whole.replicas
    assert (first.host, first.pending, first.resting, first.lane) == ("h", 5, True, "grpc")
    assert first.latency.ToTimedelta() == timedelta(seconds=0.2)
    assert (second.host, second.pending) == ("h2", 1)
    assert (whole.event_log.recorded, whole.event_log.dropped) == (20, 5)
    assert one == before
    assert pending_of([Figures("a", one, {}), Figures("b", other, {})]) == {("m", 1): 6}


def test_one_that_has_not_heard_the_registry_has_no_staleness() -> None:
    whole = status_of([Figures("a", status(1), {}), Figures("b", status(0, 1, None), {})])
    assert not whole.HasField("staleness")
    assert whole.revision == 0
    assert not whole.HasField("event_log")


def test_looks_compare_each_process_with_itself() -> None:
    a, b = meter_of(*[0.1] * 5), meter_of(*[0.1] * 50)
    looks = Looks([of("a", a), of("b", b)])
    a.answered(("m", 1), 0.1)
    # One does not answer, for a look.
    assert looks.since([of("a", a)])[("m", 1)].succeeded == 1
    b.answered(("m", 1), 0.1)
    assert looks.since([of("a", a), of("b", b)])[("m", 1)].succeeded == 1
    # One was started again: it has counted less than the one before it.
    c = meter_of(0.1, 0.1)
    a.failed(("m", 1))
    got = looks.since([of("a", a), of("c", c)])[("m", 1)]
    assert (got.succeeded, got.failed) == (0, 1)
    c.answered(("m", 1), 0.2)
    assert looks.since([of("a", a), of("c", c)])[("m", 1)].succeeded == 1


def test_a_sum_leaves_its_parts_as_they_are() -> None:
    one = {("m", 1): Tally(succeeded=1, latencies={3: 1})}
    summed([one, one])
    assert one == {("m", 1): Tally(succeeded=1, latencies={3: 1})}
