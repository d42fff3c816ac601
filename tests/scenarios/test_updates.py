"""Updates of running services: one answer for each id, whoever takes it and whoever has died."""

import asyncio
import contextlib
import sys
from pathlib import Path

import pytest

from saga.core.intents import UpdateAnswered
from saga.errors import (
    MalformedMessage,
    SagaEnded,
    TimedOut,
    UnknownSaga,
    UpdateRefused,
)
from saga.settings import Settings
from tests.patience import HANG_S
from tests.scenarios.update_app import APP, RUNS, BasketOpened, Change, Items


@pytest.fixture(params=["one file", "two files"])
def files(request, tmp_path):
    bus = "saga" if request.param == "one file" else "bus"
    return {"bus": f"local:///{tmp_path}/{bus}.db", "store": f"sqlite:///{tmp_path}/saga.db"}


async def opened(service, name="b-1", room=5):
    return await service.start(BasketOpened(name=name, room=room))


async def test_an_update_is_answered_as_json_or_as_a_model(files):
    async with APP.service(**files) as service:
        basket = await opened(service, room=2)
        first = await service.update(basket, "change", {"add": "tea"}, timeout=HANG_S)
        second = await service.update(
            "basket/b-1", "change", Change(add="rice"), answer=Items, timeout=HANG_S
        )
        outcome = await service.outcome(basket, timeout=HANG_S)
        view = await service.find(basket)

    assert first == {"items": ["tea"]}
    assert second == Items(items=["tea", "rice"])
    assert outcome.event.items == ["tea", "rice"]
    assert view is not None
    assert view.shown == {"items": 2}


async def test_refusals_say_who_refuses_and_why(files):
    """The saga's code, its model, its end; and what is asked of nobody."""
    async with APP.service(**files) as service:
        basket = await opened(service, room=2)
        await service.update(basket, "change", {"add": "tea"}, timeout=HANG_S)
        with pytest.raises(UpdateRefused, match="twice: tea is in it") as refused:
            await service.update(basket, "change", {"add": "tea"}, timeout=HANG_S)
        assert refused.value.code == "twice"
        with pytest.raises(UpdateRefused, match="add: Input should be a valid string") as invalid:
            await service.update(basket, "change", {"add": 7}, timeout=HANG_S)
        assert invalid.value.code == "invalid"
        with pytest.raises(MalformedMessage, match="the answer: "):
            await service.update(basket, "change", {"add": "x"}, answer=Change, timeout=HANG_S)
        await service.outcome(basket, timeout=HANG_S)
        with pytest.raises(SagaEnded, match="the saga is completed") as ended:
            await service.update(basket, "change", {"add": "rice"}, timeout=HANG_S)
        assert (ended.value.code, ended.value.saga_id) == ("saga_ended", basket)
        with pytest.raises(UnknownSaga):
            await service.update("basket/nobody", "change", {"add": "rice"})


async def test_the_same_id_gets_the_same_answer_and_another_content_none(files):
    """Also from a service that was not there when it was asked."""
    async with APP.service(**files) as service:
        basket = await opened(service)
        ask = {"id": "u-1", "timeout": HANG_S}
        first = await service.update(basket, "change", {"add": "tea"}, **ask)
        assert await service.update(basket, "change", {"add": "tea"}, **ask) == first
    async with APP.service(**files) as service:
        assert await service.update(basket, "change", {"add": "tea"}, **ask) == first
        with pytest.raises(UpdateRefused, match="u-1 is the id of another update") as conflict:
            await service.update(basket, "change", {"add": "rice"}, **ask)
        last = await service.update(basket, "change", {"add": "milk"}, timeout=HANG_S)
        history = await service._store.load([basket])  # noqa: SLF001  # to count

    assert conflict.value.code == "id_conflict"
    assert last == {"items": ["tea", "milk"]}
    answers = [e.body for e in history[basket] if isinstance(e.body, UpdateAnswered)]
    assert [answer.update for answer in answers][:1] == ["u-1"]
    assert len(answers) == 2


async def test_many_ask_side_by_side_and_each_gets_its_own_answer(files):
    async with APP.service(**files) as service:
        basket = await opened(service, room=40)
        answers = await asyncio.gather(
            *(
                service.update(basket, "change", {"add": f"i-{n}"}, timeout=HANG_S)
                for n in range(40)
            )
        )
        outcome = await service.outcome(basket, timeout=HANG_S)

    for number, answer in enumerate(answers):
        assert answer["items"][-1] == f"i-{number}"
    assert sorted(len(answer["items"]) for answer in answers) == list(range(1, 41))
    assert sorted(outcome.event.items) == sorted(f"i-{n}" for n in range(40))


async def test_who_asks_need_not_be_who_answers(files):
    """A service without sagas' work asks, and reads the answer from the store."""
    asking = APP.build_service(Settings.read(**files), roles=())
    async with APP.service(**files) as worker, asking as asker:
        basket = await opened(worker)
        await worker.idle(timeout=HANG_S)
        answer = await asker.update(basket, "change", {"add": "tea"}, timeout=HANG_S)

    assert answer == {"items": ["tea"]}


async def test_a_paused_saga_lets_its_caller_time_out_and_answers_later(files):
    async with APP.service(**files) as service:
        basket = await opened(service)
        await service.idle(timeout=HANG_S)
        await service.receipt(basket, await service.pause(basket, reason="a look"), timeout=HANG_S)
        with pytest.raises(TimedOut, match="no answer to update 'change' came in time"):
            await service.update(basket, "change", {"add": "tea"}, id="u-1", timeout="200ms")
        await service.resume(basket, reason="done")
        answer = await service.update(basket, "change", {"add": "tea"}, id="u-1", timeout=HANG_S)

    assert answer == {"items": ["tea"]}


async def test_a_parked_saga_answers_once_it_is_released_by_code_that_can(files):
    async with APP.service(**files) as service:
        basket = await opened(service)
        with pytest.raises(TimedOut):
            await service.update(basket, "change", {"add": "poison"}, id="u-1", timeout=0.5)
        await service.outcome(basket, timeout=HANG_S)
        view = await service.find(basket)
        assert view is not None
        assert view.status.value == "parked"
        await service.cancel(basket, reason="no way", mode="abandon")
        with pytest.raises(SagaEnded, match="the saga is abandoned"):
            await service.update(basket, "change", {"add": "poison"}, id="u-1", timeout=HANG_S)


async def test_answers_of_earlier_runs_are_found(files):
    """A history is read from its last run on, and an id may come again much later."""
    async with RUNS.service(**files) as service:
        relay = await service.start(BasketOpened(name="b-1", room=3))
        for room in (3, 2):
            said = {"add": f"in run {room}"}
            answer = await service.update(relay, "change", said, id=f"u-{room}", timeout=HANG_S)
            assert answer == [room, f"in run {room}"]
    async with RUNS.service(**files) as service:
        for room in (3, 2):
            said = {"add": f"in run {room}"}
            answer = await service.update(relay, "change", said, id=f"u-{room}", timeout=HANG_S)
            assert answer == [room, f"in run {room}"]
        receipt = await service.receipt(relay, "u-3", timeout=HANG_S)

    assert receipt.answer == [3, "in run 3"]


@contextlib.asynccontextmanager
async def serving(files):
    """A process that serves until it is killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.scenarios.update_app", files["bus"], files["store"]),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), HANG_S) == b"serving\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_answers_outlive_who_gave_them(tmp_path):
    """Killed (-9) while it is asked, after every one; each id has one answer, and keeps it."""
    answers = await asked_of_the_killed(
        {"bus": f"local:///{tmp_path}/saga.db", "store": f"sqlite:///{tmp_path}/saga.db"}
    )

    assert [len(answer["items"]) for answer in answers] == [1, 2]


@pytest.mark.long
@pytest.mark.connected
async def test_answers_outlive_who_gave_them_on_postgres(postgres, tmp_path):
    answers = await asked_of_the_killed({"bus": f"local:///{tmp_path}/bus.db", "store": postgres})

    assert [len(answer["items"]) for answer in answers] == [1, 2]


async def asked_of_the_killed(files):
    """The answers to two updates, each asked twice, of processes that are killed meanwhile."""
    answers = []
    async with serving(files):  # makes the files
        pass
    async with APP.build_service(Settings.read(**files), roles=()) as asker:
        basket = await opened(asker, room=2)
        for number in range(2):
            said, id_ = {"add": f"i-{number}"}, f"u-{number}"
            async with serving(files) as process:
                asking = asyncio.create_task(
                    asker.update(basket, "change", said, id=id_, timeout=HANG_S)
                )
                await asyncio.sleep(0.05 * number)
                process.kill()
                await process.wait()
                async with serving(files):
                    answers.append(await asking)
        async with serving(files):
            for number, answer in enumerate(answers):
                said, id_ = {"add": f"i-{number}"}, f"u-{number}"
                again = await asker.update(basket, "change", said, id=id_, timeout=HANG_S)
                assert again == answer
            outcome = await asker.outcome(basket, timeout=HANG_S)
    assert outcome.event.items == [f"i-{number}" for number in range(2)]
    return answers
