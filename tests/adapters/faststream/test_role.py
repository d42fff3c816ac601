"""Services as a role of a process: they end with nothing left behind."""

import asyncio
import gc

import pytest

from saga.adapters.faststream import SubscriberHealth
from saga.effects.service import EffectsRole
from saga.errors import TaskEnded
from tests.adapters.faststream.fixtures import KafkaScenario, until
from tests.effects.fixtures import wallet_effects


@pytest.fixture
async def reported():
    """The errors that the event loop reports because nobody has looked at them."""
    messages = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: messages.append(context["message"]))
    return messages


@pytest.fixture
async def role(scenario: KafkaScenario):
    made, attached = scenario.attached(wallet_effects()[0])
    role = EffectsRole(attached.subscribers, start=made.start, stop=made.stop)
    await role.start()
    return role


async def end_of(role: EffectsRole) -> str | None:
    """The error of the role when it is stopped; no reference to it is kept."""
    running = asyncio.create_task(role.run())
    await asyncio.sleep(0)
    role.stop()
    [failure] = await asyncio.gather(running, return_exceptions=True)
    return None if failure is None else str(failure)


async def test_a_role_that_is_stopped_leaves_no_exception_behind(role, reported) -> None:
    """Its services have ended, as they were told to."""
    assert await end_of(role) is None
    await asyncio.sleep(0.01)  # the loop lets go of what it has just handed over
    gc.collect()
    assert reported == []


async def test_a_broker_that_cannot_be_stopped_leaves_no_exception_behind(
    scenario: KafkaScenario, reported
) -> None:
    """The failure is raised, and not reported a second time."""
    made, attached = scenario.attached(wallet_effects()[0])

    async def stop_and_fail() -> None:
        await made.stop()
        raise OSError("the producer is gone")

    role = EffectsRole(attached.subscribers, start=made.start, stop=stop_and_fail)
    await role.start()
    assert await end_of(role) == "the producer is gone"
    await asyncio.sleep(0.01)  # the loop lets go of what it has just handed over
    gc.collect()
    assert reported == []


@pytest.mark.parametrize("name", ["the effects of wallets", "the reader of intents"])
async def test_a_service_that_somebody_cancels_is_dead_to_probes(
    scenario: KafkaScenario, name: str
) -> None:
    """Also on a broker of one's own, where no role would end."""
    made, attached = scenario.attached(wallet_effects()[0])
    await made.start()
    [subscriber] = attached.subscribers
    health = SubscriberHealth(subscriber)
    assert health.why_dead() == []
    found: list[asyncio.Task] = []

    def has_begun() -> bool:
        found[:] = [task for task in asyncio.all_tasks() if task.get_name() == name]
        return bool(found)

    await until(has_begun)
    found[0].cancel()
    with pytest.raises(TaskEnded, match="somebody else"):
        await subscriber.wait()

    [reason] = health.why_dead()
    assert "wallets: ended: " in reason
    assert "somebody else" in reason
    await made.stop()
