"""Whose an exception is that comes out of users' code."""

import asyncio

import pytest

from saga.users_code import is_ours


@pytest.mark.parametrize(
    "error", [SystemExit(1), GeneratorExit(), asyncio.CancelledError(), ValueError(), Exception()]
)
def test_whatever_users_code_raises_by_itself_is_theirs(error: BaseException) -> None:
    assert not is_ours(error)
    assert not is_ours(BaseExceptionGroup("several", [error]))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_ctrl_c_and_no_memory_are_ours_in_a_group_too(error: BaseException) -> None:
    assert is_ours(error)
    assert is_ours(BaseExceptionGroup("several", [ValueError(), BaseExceptionGroup("", [error])]))


@pytest.mark.parametrize("error", [ValueError(), MemoryError()])
def test_groups_may_be_nested_deeper_than_calls(error: BaseException) -> None:
    nested = error
    for _ in range(5_000):
        nested = BaseExceptionGroup("around", [nested])
    assert is_ours(nested) is isinstance(error, MemoryError)


async def test_a_cancellation_is_ours_while_our_own_task_is_being_cancelled() -> None:
    found: list[bool] = []

    async def work() -> None:
        found.append(is_ours(asyncio.CancelledError()))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            found.append(is_ours(error))
            raise

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert found == [False, True]
