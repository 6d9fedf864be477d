"""When a host counts its supervisor as lost."""

from services.inference.host.orphan import Heartbeat


def test_a_supervisor_that_lives_is_not_lost() -> None:
    heartbeat = Heartbeat(grace=15, now=0)
    assert not any(heartbeat.lost(touched=second, now=second) for second in range(100))


def test_the_grace_counts_from_the_last_touch_seen() -> None:
    heartbeat = Heartbeat(grace=15, now=0)
    assert not heartbeat.lost(touched=1, now=10)
    assert not heartbeat.lost(touched=1, now=25)
    assert heartbeat.lost(touched=1, now=25.1)
    assert not heartbeat.lost(touched=2, now=26)


def test_a_file_that_never_was_is_lost_after_the_grace() -> None:
    heartbeat = Heartbeat(grace=15, now=0)
    assert not heartbeat.lost(touched=None, now=15)
    assert heartbeat.lost(touched=None, now=15.5)


def test_a_wall_clock_set_back_is_a_sign_of_life() -> None:
    heartbeat = Heartbeat(grace=15, now=0)
    assert not heartbeat.lost(touched=1000, now=1)
    assert not heartbeat.lost(touched=10, now=14)
    assert not heartbeat.lost(touched=10, now=29)
