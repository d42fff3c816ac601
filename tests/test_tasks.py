"""Tasks that work beside each other: however one of them ends, all end, with the reason."""

# ruff: noqa: PT012 - what raises is the block as a whole

import asyncio

import pytest

from saga.errors import TaskEnded
from saga.tasks import Tasks, why_ended


async def forever() -> None:
    await asyncio.Event().wait()


async def soon() -> None:
    await asyncio.sleep(0)


async def fails() -> None:
    raise LookupError("no more")


async def test_the_first_error_ends_all_and_is_raised_itself():
    with pytest.raises(LookupError, match="no more"):
        async with Tasks("a part") as tasks:
            well = tasks.start(forever(), "one that is well")
            tasks.start(fails(), "one that fails")

    assert well.cancelled()
    assert tasks.are_cancelled


async def test_a_task_that_returns_ends_all():
    with pytest.raises(TaskEnded, match="a part: the watch has ended, and was to go on"):
        async with Tasks("a part") as tasks:
            tasks.start(forever(), "one that is well")
            tasks.start(soon(), "the watch")


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_task_that_somebody_cancels_ends_all(has_begun):
    with pytest.raises(TaskEnded, match="a part: the watch was cancelled by somebody else"):
        async with Tasks("a part") as tasks:
            tasks.start(forever(), "one that is well")
            watch = tasks.start(forever(), "the watch", may_end=True)
            if has_begun:
                await asyncio.sleep(0)
            watch.cancel()
            await asyncio.Event().wait()


async def test_a_task_that_says_itself_cancelled_ends_all():
    """As one does that waits for something that was cancelled."""

    async def waits() -> None:
        raise asyncio.CancelledError

    with pytest.raises(TaskEnded, match="cancelled by somebody else"):
        async with Tasks("a part") as tasks:
            tasks.start(forever(), "one that is well")
            tasks.start(waits(), "the watch")


async def test_the_last_task_may_be_the_one_that_ends():
    with pytest.raises(TaskEnded):
        async with Tasks("a part") as tasks:
            tasks.start(soon(), "the watch")


async def test_tasks_that_may_end_do():
    async with Tasks("a part") as tasks:
        assert await tasks.start(asyncio.sleep(0, "done"), "one", may_end=True) == "done"
        others = [tasks.start(forever(), "two"), tasks.start(soon(), "three")]
        tasks.may_end()
        others[0].cancel()

    assert not tasks.are_cancelled


async def test_who_cancels_their_owner_cancels_all():
    """That is us: nothing is said of tasks that were cancelled by somebody else."""
    told: list[bool] = []

    async def told_whether() -> None:
        try:
            await forever()
        finally:
            told.append(tasks.are_cancelled)

    async def own() -> None:
        nonlocal tasks
        async with Tasks("a part") as tasks:
            tasks.start(told_whether(), "one")

    tasks = Tasks("none yet")
    owner = asyncio.create_task(own())
    await asyncio.sleep(0.001)
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner

    assert told == [True]


async def test_a_task_that_goes_on_has_not_ended():
    task = asyncio.create_task(forever())
    assert why_ended(task, "it") is None
    task.cancel()
    await asyncio.wait([task])
    assert "somebody else" in str(why_ended(task, "it"))
