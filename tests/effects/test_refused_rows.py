"""A row that the inbox refuses for good harms its own intent alone."""

import json

import pytest

from saga.effects import EffectContext, Effects
from tests.effects.fixtures import Scenario, intent
from tests.toys import Paid, Pay

REFUSING = (
    "CREATE TRIGGER refusing BEFORE INSERT ON saga_inbox WHEN new.step LIKE 'bad%' "
    "BEGIN SELECT RAISE(ABORT, 'no such step'); END"
)


def payers(*, uses_db: bool) -> tuple[Effects, list[str]]:
    effects, calls = Effects("wallets"), []

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        calls.append(ctx.intent_id)
        if uses_db:
            await ctx.db.fetch("SELECT 1 AS one")
        return Paid(receipt="r")

    return effects, calls


@pytest.mark.parametrize("uses_db", [False, True], ids=["rows alone", "with the handler's own"])
async def test_its_attempt_fails_once_and_the_others_of_the_commit_are_kept(uses_db):
    """The handler is not called again and again, and the service goes on."""
    effects, calls = payers(uses_db=uses_db)
    async with Scenario(effects) as scenario:
        scenario.disk.execute(REFUSING)
        steps = ["s1", "bad", "s2", "s3"]
        await scenario.send(*[intent(Pay(amount=1), step=step) for step in steps])
        await scenario.send(intent(Pay(amount=1), step="later"))

        failed = [json.loads(value) for name, value in scenario.answers() if "failed" in name]
        done = [name for name, _ in scenario.answers() if "failed" not in name]
        assert len(done) == 4
        assert len(calls) == len(set(calls)) == 5
        [failure] = failed
        assert failure["outcome"] == "failed"
        assert "no such step" in failure["message"]
        assert scenario.disk.execute("SELECT count(*) FROM saga_inbox").fetchone() == (4,)
