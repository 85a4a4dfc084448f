"""Places are refused or waited for, counted once, and never lost, whoever comes, leaves or gives up in what order."""

import asyncio
import random

import pytest

from handler.errors import Overloaded
from handler.transcription.admission import OPEN_PER_PLACE, STARVED_S, Admission, Place


class Busy:
    """Work that has waited for its audio for `starved_s` seconds."""

    def __init__(self, starved_s: float = 0.0) -> None:
        self.starved_s = starved_s

    def abort(self) -> None:
        raise AssertionError("nobody ends it")


def enter(admission: Admission, work: Busy | None) -> Place:
    place = admission.enter()
    place.work = work
    return place


def test_as_many_are_in_work_as_the_limit_allows() -> None:
    admission = Admission(2)
    with enter(admission, Busy()), enter(admission, Busy()), pytest.raises(Overloaded, match="at most 2 requests"):
        admission.enter()
    assert not admission.places
    admission.enter()


@pytest.mark.parametrize("work", [None, Busy(STARVED_S)])
def test_those_that_wait_for_their_audio_leave_room_for_some_others(work: Busy | None) -> None:
    admission = Admission(1)
    for _ in range(OPEN_PER_PLACE):
        enter(admission, work)
    with pytest.raises(Overloaded):
        admission.enter()


async def test_those_that_wait_come_in_the_order_of_asking() -> None:
    admission = Admission(1)
    first = await admission.wait()
    waiting = [asyncio.create_task(admission.wait()) for _ in range(3)]
    for task in waiting:
        await asyncio.sleep(0)
        assert not task.done()
    waiting[0].cancel()
    admission.leave(first)
    second = await waiting[1]
    assert not waiting[2].done()
    with second:
        pass
    assert await waiting[2] in admission.places
    assert len(admission.places) == 1


async def test_a_place_that_comes_together_with_a_cancellation_goes_to_the_next() -> None:
    admission = Admission(1)
    first = await admission.wait()
    lost, kept = (asyncio.create_task(admission.wait()) for _ in range(2))
    await asyncio.sleep(0)
    admission.leave(first)
    lost.cancel()
    await kept
    assert lost.cancelled()
    assert len(admission.places) == 1


@pytest.mark.parametrize("seed", range(20))
async def test_no_place_is_lost_or_given_twice(seed: int) -> None:
    """Come, leave and give up at random: places never exceed the limit, and in the end everybody had one or gave up."""
    chance = random.Random(seed)
    admission = Admission(3)
    tasks = list[asyncio.Task[Place]]()
    held = list[Place]()
    for _ in range(200):
        action = chance.random()
        if action < 0.5:
            tasks.append(asyncio.create_task(admission.wait()))
        elif action < 0.7 and tasks:
            chance.choice(tasks).cancel()
        elif held:
            admission.leave(held.pop(chance.randrange(len(held))))
        if chance.random() < 0.5:
            await asyncio.sleep(0)
        arrived = [task for task in tasks if task.done()]
        held += [task.result() for task in arrived if not task.cancelled()]
        tasks = [task for task in tasks if not task.done()]
        assert len(admission.places) <= 3
    while held or tasks:
        for place in held:
            admission.leave(place)
        held = [task.result() for task in tasks if task.done() and not task.cancelled()]
        tasks = [task for task in tasks if not task.done()]
        await asyncio.sleep(0)
    assert not admission.places


@pytest.mark.parametrize("stalled", ["starved", "receiving"])
async def test_one_that_waits_does_not_wait_for_an_upload_that_stalls(stalled: str) -> None:
    admission = Admission(1)
    place = enter(admission, Busy(STARVED_S) if stalled == "starved" else None)
    place.only_receives = stalled == "receiving"
    with await admission.wait():
        assert len(admission.places) == 2
    place.leave()
    place.leave()
    assert not admission.places
