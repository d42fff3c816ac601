"""The thread beside the loop begins when it is told to, and the loop waits for that, not for the
end.
"""

import asyncio
import threading
import time

import pytest

from saga.adapters.sqlite import beside as module
from saga.adapters.sqlite.beside import BEGIN_S_MAX, Beside


@pytest.fixture
def beside():
    """A thread at work."""
    beside = Beside("test")
    beside.start()
    yield beside
    beside.close(wait=True)


async def test_what_is_begun_goes_on_while_the_loop_works(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop's thread never lets go of the interpreter here, and yet the order is carried out."""
    monkeypatch.setattr(module, "BEGIN_S_MAX", 5)  # however busy the machine is
    events: list[str] = []
    has_slept = threading.Event()
    ended = asyncio.get_running_loop().create_future()

    def act() -> None:
        events.append("begun")
        has_slept.wait(5)

    beside.begin(act, lambda result, error: ended.set_result(error), asyncio.get_running_loop())
    events.append("loop")
    has_slept.set()

    assert await ended is None
    assert events == ["begun", "loop"]


async def test_a_thread_that_is_busy_holds_up_nobody(beside: Beside) -> None:
    """The loop goes on after a moment; the order is carried out in its turn."""
    loop = asyncio.get_running_loop()
    release = threading.Event()
    ended: list[str] = []
    first = loop.create_future()
    second = loop.create_future()
    is_busy = threading.Event()

    def work() -> None:
        is_busy.set()
        release.wait(5)

    beside.call(work, lambda *_: first.set_result(None), loop)
    assert is_busy.wait(5)

    began_s = time.monotonic()
    beside.begin(lambda: ended.append("second"), lambda *_: second.set_result(None), loop)
    took_s = time.monotonic() - began_s

    assert BEGIN_S_MAX / 2 < took_s < 1
    assert ended == []
    release.set()
    await asyncio.gather(first, second)
    assert ended == ["second"]


async def test_after_a_wait_in_vain_the_next_order_is_waited_for_again(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late beginning of an order is not taken for that of the next one."""
    loop = asyncio.get_running_loop()
    release = threading.Event()
    first, second, third = (loop.create_future() for _ in range(3))
    beside.call(lambda: release.wait(5), lambda *_: first.set_result(None), loop)
    beside.begin(lambda: None, lambda *_: second.set_result(None), loop)
    release.set()
    await asyncio.gather(first, second)
    events: list[str] = []
    monkeypatch.setattr(module, "BEGIN_S_MAX", 5)

    beside.begin(lambda: events.append("begun"), lambda *_: third.set_result(None), loop)
    events.append("loop")
    await third

    assert events == ["begun", "loop"]


async def test_an_error_is_handed_over(beside: Beside) -> None:
    """Whoever gave the order is told, and the thread lives on."""

    def broken() -> None:
        raise LookupError("a bug")

    with pytest.raises(LookupError, match="a bug"):
        await beside.run(broken)
    assert await beside.run(lambda: "alive") == "alive"
