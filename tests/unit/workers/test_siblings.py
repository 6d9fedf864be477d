"""Where sequences live among several processes."""

from collections import Counter
from pathlib import Path

import pytest

from gateway.call import Answer, Call
from gateway.plan import Kind
from gateway.sequences import Sequence
from gateway.workers.group import Group
from gateway.workers.siblings import ATTEMPTS, Siblings
from modelyard.errors import DeadlineExceeded, SequenceLost
from modelyard.names import VersionName

V1 = VersionName("m", 1)


def group(index: int, count: int = 4, folder: Path = Path("/none")) -> Group:
    return Group(index, tuple(f"unix:{folder}/{i}" for i in range(count)))


def call(sequence: Sequence | None, attempts: str = "1") -> Call:
    metadata = ((ATTEMPTS, attempts),)
    return Call("m", "", b"", None, "r", metadata, sequence)


def test_every_process_finds_the_same_owner() -> None:
    for name in (7, "7", 2**64 - 1, "talk-1"):
        assert len({group(index).owner("m", name) for index in range(4)}) == 1
    owners = Counter(group(0).owner("m", number) for number in range(1000))
    assert sorted(owners) == [0, 1, 2, 3]
    assert min(owners.values()) > 200
    # A number and a text are two sequences, and so are two of two models.
    assert any(group(0).owner("m", n) != group(0).owner("m", str(n)) for n in range(20))
    assert any(group(0).owner("m", n) != group(0).owner("n", n) for n in range(20))


def test_a_group_travels_whole() -> None:
    assert Group.of(group(2).told()) == group(2)
    assert group(2).share == 0.25


async def test_what_is_answered_here_and_what_is_not(tmp_path: Path) -> None:
    ours, now = group(1, folder=tmp_path), 0.0
    siblings = Siblings(ours, 1 << 20, lambda: now, lambda model: 0.01)
    answered: list[Call] = []

    async def service(call: Call) -> Answer:
        answered.append(call)
        return Answer(b"", V1, Kind.PRIMARY)

    handing_on = siblings.handing_on(service)
    mine = next(n for n in range(1, 99) if ours.owner("m", n) == 1)
    other = next(n for n in range(1, 99) if ours.owner("m", n) != 1)
    try:
        await handing_on(call(None))
        # No sequence: it may be made again.
        await handing_on(call(None, attempts="2"))
        await handing_on(call(Sequence(mine, True, False)))
        await handing_on(call(Sequence(mine, False, False)))
        assert len(answered) == 4
        # What begins a sequence begins it anew; what goes on may have been computed already.
        await handing_on(call(Sequence(mine, True, False), attempts="2"))
        with pytest.raises(SequenceLost):
            await handing_on(call(Sequence(mine, False, False), attempts="2"))
        assert len(answered) == 5
        # Its process is waited for, as long as the caller has time.
        for start in (False, True):
            with pytest.raises(DeadlineExceeded):
                await handing_on(call(Sequence(other, start, False)))
        assert len(answered) == 5
    finally:
        await siblings.close()
