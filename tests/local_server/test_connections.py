"""Test which connections give way if there are too many, and how many there may be."""

import logging
import resource

import pytest

from local_server.protocol.connections import (
    MAX_DESCRIPTORS,
    MAX_SURPLUS,
    MIN_CONNECTIONS,
    SPARE_DESCRIPTORS,
    ConnectionRegistry,
    connection_limit,
    raise_descriptor_limit,
)


class FakeConnection:
    """A connection that only notes that it was closed."""

    def __init__(self, is_answered: bool = False, is_stalled: bool = False) -> None:
        self.is_answered = is_answered
        self.is_stalled = is_stalled
        self.is_evicted = False

    def evict(self) -> None:
        self.is_evicted = True


def add(registry: ConnectionRegistry, count: int, **state: bool) -> list[FakeConnection]:
    connections = [FakeConnection(**state) for _ in range(count)]
    for connection in connections:
        registry.add(connection)
    return connections


def evicted(connections: list[FakeConnection]) -> list[int]:
    return [index for index, connection in enumerate(connections) if connection.is_evicted]


def test_idle_connections_give_way_before_answered_ones_and_those_before_unfinished_heads() -> None:
    registry = ConnectionRegistry(MAX_SURPLUS + 6)
    unfinished = add(registry, MAX_SURPLUS)
    idle, answered, busy = add(registry, 2), add(registry, 2, is_answered=True), add(registry, 2)
    for connection in idle:
        registry.mark_idle(connection)
    for connection in answered + busy:
        registry.mark_busy(connection)
    for count, expected in enumerate([[0], [0, 1]]):
        add(registry, 1)
        assert (evicted(idle), evicted(answered), evicted(unfinished)) == (expected, [], []), count
    for expected in ([0], [0, 1]):
        add(registry, 1)
        assert (evicted(answered), evicted(unfinished)) == (expected, [])
    for expected in ([0], [0, 1]):
        add(registry, 1)
        assert evicted(unfinished) == expected
    assert evicted(busy) == []
    assert len(registry) == MAX_SURPLUS + 6


def test_a_client_that_reads_slowly_keeps_its_answer_as_long_as_there_are_silent_connections() -> None:
    registry = ConnectionRegistry(2 * MAX_SURPLUS)
    (slow,) = add(registry, 1, is_stalled=True)
    registry.mark_busy(slow)
    silent = add(registry, 8 * MAX_SURPLUS)
    assert not slow.is_evicted
    assert len(evicted(silent)) == 6 * MAX_SURPLUS + 1
    for connection in silent:
        registry.mark_busy(connection)  # now they all have requests in work
    add(registry, 1)
    assert slow.is_evicted


def test_a_connection_that_begins_another_request_counts_as_young_again() -> None:
    registry = ConnectionRegistry(MAX_SURPLUS)
    connections = add(registry, MAX_SURPLUS)
    registry.mark_busy(connections[0])
    registry.mark_idle(connections[0])
    registry.mark_reading_head(connections[0])
    registry.mark_reading_head(connections[1])  # as it was before
    add(registry, 1)
    assert evicted(connections) == [1]


def test_connections_at_work_are_never_evicted_and_a_few_more_are_let_in() -> None:
    registry = ConnectionRegistry(4)
    busy = add(registry, 4)
    for connection in busy:
        registry.mark_busy(connection)
    others = [FakeConnection() for _ in range(2 * MAX_SURPLUS)]
    assert not any(registry.add(other) for other in others)
    assert evicted(busy) == []
    assert evicted(others) == list(range(MAX_SURPLUS))  # the youngest stay
    registry.discard(busy[0])
    for other in others:
        registry.discard(other)
    assert registry.add(FakeConnection())


def test_one_connection_gives_way_where_descriptors_are_short_and_none_where_all_work() -> None:
    registry = ConnectionRegistry(1000, highest_descriptor=500)
    idle, busy = add(registry, 2), add(registry, 2)
    for connection in idle:
        registry.mark_idle(connection)
    for connection in busy:
        registry.mark_busy(connection)
    assert registry.add(FakeConnection(), 500)
    assert evicted(idle) == []
    assert registry.add(FakeConnection(), 501)
    assert registry.add(FakeConnection(), 501)
    assert evicted(idle) == [0, 1]
    assert not registry.add(FakeConnection(), 501)
    assert evicted(busy) == []


def test_a_connection_that_was_evicted_is_not_counted_again() -> None:
    registry = ConnectionRegistry(MAX_SURPLUS)
    first, *_ = add(registry, MAX_SURPLUS + 1)
    assert first.is_evicted
    for mark in (registry.mark_busy, registry.mark_idle, registry.mark_reading_head, registry.discard):
        mark(first)
        assert len(registry) == MAX_SURPLUS


def test_a_full_server_is_logged_once_and_not_for_idle_connections(caplog: pytest.LogCaptureFixture) -> None:
    registry = ConnectionRegistry(MAX_SURPLUS)
    with caplog.at_level(logging.WARNING, "asr"):
        for connection in add(registry, MAX_SURPLUS):
            registry.mark_idle(connection)
        add(registry, MAX_SURPLUS)
        assert caplog.messages == []
        add(registry, 9)
    assert caplog.messages == ["connections_full"]


@pytest.mark.parametrize(
    ("descriptors", "max_requests", "limit", "is_low"),
    [
        (1024, 64, 1024 - SPARE_DESCRIPTORS, False),
        (MAX_DESCRIPTORS, 128, MIN_CONNECTIONS, False),
        (MAX_DESCRIPTORS, 4096, 4 * 4096, False),
        (1024, 1024, 1024 - SPARE_DESCRIPTORS, True),
        (64, 128, 32, True),
    ],
)
def test_connections_leave_descriptors_to_files(
    caplog: pytest.LogCaptureFixture, descriptors: int, max_requests: int, limit: int, is_low: bool
) -> None:
    with caplog.at_level(logging.WARNING, "asr"):
        assert connection_limit(descriptors, max_requests) == limit
    assert caplog.messages == ["few_descriptors"] * is_low


def test_the_soft_limit_of_descriptors_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, MAX_DESCRIPTORS) // 2, hard))
        assert raise_descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(hard, MAX_DESCRIPTORS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
