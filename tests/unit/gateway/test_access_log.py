"""The access log: what each line tells, and how many lines there are."""

import asyncio
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import LogCapture

from gateway import access_log
from gateway.access_log import MOST_A_SECOND, MOST_TEXT, AccessLog
from gateway.call import Answer, Call
from gateway.plan import Kind
from modelyard.errors import HostGone, InvalidTensor
from modelyard.names import ModelName, VersionName

V1 = VersionName("digits", 1)


class Clock:
    """Tells the time that it is set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    """What is logged, whatever has configured logs before."""
    capture = LogCapture()
    monkeypatch.setattr(access_log, "_log", structlog.wrap_logger(None, processors=[capture]))
    yield capture.entries


def call(request_id: str = "r1") -> Call:
    return Call("digits", "live", b"12345", 1.0, request_id, target=V1)


def test_a_failure_is_told_with_its_request(clock: Clock, lines: list) -> None:
    AccessLog("failures", clock).failed(call("abc"), InvalidTensor("bad shape"), 0.0123456)
    assert lines == [
        {
            "event": "failed",
            "log_level": "warning",
            "request_id": "abc",
            "model": "digits",
            "asked": "live",
            "version": 1,
            "ms": 12.346,
            "bytes": 5,
            "reason": "INVALID_TENSOR",
            "why": "bad shape",
        }
    ]


def test_an_answer_is_told_with_who_gave_it(clock: Clock, lines: list) -> None:
    log = AccessLog("all", clock)
    log.answered(call("abc"), Answer(b"!", V1, Kind.HEDGE, 2, "h1"), 0.5)
    log.answered(call("def"), Answer(b"!", ModelName("digits"), Kind.DEFAULT), 0.5)
    told = [(li["request_id"], li["served_by"], li["attempt"], li["attempts"]) for li in lines]
    assert told == [
        ("abc", "models/digits/versions/1", "hedge", 2),
        ("def", "models/digits", "default", 1),
    ]
    assert {(line["event"], line["log_level"], line["ms"]) for line in lines} == {
        ("answered", "info", 500.0)
    }


@pytest.mark.parametrize(
    ("error", "reason", "why"),
    [
        (HostGone("the connection broke"), "HOST_GONE", "the connection broke"),
        (asyncio.CancelledError(), "CANCELLED", "the caller gave up"),
        (ZeroDivisionError("secret"), "INTERNAL", "ZeroDivisionError"),
    ],
)
def test_why_a_call_failed(
    clock: Clock, lines: list, error: BaseException, reason: str, why: str
) -> None:
    AccessLog("failures", clock).failed(call(), error, 0.0)
    assert [(line["reason"], line["why"]) for line in lines] == [(reason, why)]


def test_a_call_that_no_version_was_chosen_for(clock: Clock, lines: list) -> None:
    AccessLog("failures", clock).failed(Call("x", "", b"", None, "r1"), HostGone("gone"), 0.0)
    assert lines[0]["version"] is None


@pytest.mark.parametrize(
    ("which", "everything", "failures"),
    [("none", False, 0), ("failures", False, 1), ("all", True, 1)],
)
def test_who_wants_which_lines(
    clock: Clock, lines: list, which: str, everything: bool, failures: int
) -> None:
    log = AccessLog(which, clock)
    assert log.all is everything
    log.failed(call(), HostGone("gone"), 0.0)
    assert len(lines) == failures


def test_no_more_lines_a_second_than_one_can_read(clock: Clock, lines: list) -> None:
    log = AccessLog("failures", clock)
    for clock.now in (10.0, 10.5, 10.999):
        for _ in range(MOST_A_SECOND):
            log.failed(call(), HostGone("gone"), 0.0)
    assert len(lines) == MOST_A_SECOND
    assert not any("untold" in line for line in lines)


def test_the_next_line_says_how_many_were_left_out(clock: Clock, lines: list) -> None:
    log = AccessLog("failures", clock)
    clock.now = 10.0
    for _ in range(MOST_A_SECOND + 7):
        log.failed(call(), HostGone("gone"), 0.0)
    clock.now = 12.0
    log.failed(call("later"), HostGone("gone"), 0.0)
    log.failed(call("last"), HostGone("gone"), 0.0)
    assert lines[-2]["request_id"] == "later"
    assert lines[-2]["untold"] == 7
    assert "untold" not in lines[-1]


def test_every_failure_is_told_or_counted(clock: Clock, lines: list) -> None:
    log = AccessLog("failures", clock)
    for step in range(1000):
        clock.now = step * 0.005  # 200 a second.
        log.failed(call(), HostGone("gone"), 0.0)
    clock.now = 100.0
    log.failed(call(), HostGone("gone"), 0.0)
    assert len(lines) == 5 * MOST_A_SECOND + 1
    assert len(lines) + sum(line.get("untold", 0) for line in lines) == 1001


def test_answers_take_no_room_from_failures(clock: Clock, lines: list) -> None:
    log = AccessLog("all", clock)
    for _ in range(2 * MOST_A_SECOND):
        log.answered(call(), Answer(b"!", V1, Kind.PRIMARY), 0.0)
    log.failed(call(), HostGone("gone"), 0.0)
    assert len(lines) == 2 * MOST_A_SECOND + 1


def test_what_callers_chose_is_cut(clock: Clock, lines: list) -> None:
    long = "m" * 300_000
    failed = Call(long, long, b"", 1.0, long)
    AccessLog("failures", clock).failed(failed, InvalidTensor(f"no {long}"), 0.1)
    assert max(len(str(value)) for value in lines[0].values()) <= MOST_TEXT
