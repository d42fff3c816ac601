"""What a saga would take now and what each act would do: tried on it, and thrown away."""

import pytest

from saga import SagaApp
from saga.contracts import CommandAct
from saga.core.history import History, turn_of, turns
from saga.core.retry import ONCE
from saga.runtime.trial import ALL, possible_acts
from saga.testing import cancelled, failed, given, operator, refused, replied, turn_failed
from tests.toys import CONTRACTS, OrderPlaced, Reserve, Reserved, Ship, Unreserve, as_saga


async def order(ctx, placed):
    await ctx.do(Reserve(), undo=Unreserve, undo_retry=ONCE, timeout="1m")
    await ctx.do(Ship())


SAGA = as_saga(order)
APP = SagaApp(sagas=[SAGA], contracts=CONTRACTS)


def possible(*happened):
    """Of each act that is possible what it is about and what it would do."""
    scenario = given(SAGA, OrderPlaced(), *happened, contracts=CONTRACTS)
    history = History(turn_of(list(turn.entries)) for turn in turns(scenario.history))
    found = possible_acts(APP.registry, scenario.state.saga_id, history, scenario.now, of=ALL)
    before = list(scenario.history)
    acts = {}
    for each in found:
        name = " ".join(filter(None, (each.act, each.step, each.state, each.mode)))
        acts[name] = each.does
    assert list(scenario.history) == before
    return acts


def test_a_running_saga():
    acts = possible()

    assert acts == {
        "mark reserve done": "settles reserve as done, with the reply that you enter",
        "fire-timer": "has the timer fire now",
        "move-timer": acts["move-timer"],
        "pause": "records what comes, which acts when it is resumed",
        "cancel graceful": "rolls back once what is in flight has settled",
        "cancel immediate": acts["cancel immediate"],
        "compensate": acts["compensate"],
        "abandon": acts["abandon"],
    }
    assert "plans the rollback of reserve" in acts["cancel immediate"]
    assert "issues reserve/undo/1" in acts["cancel immediate"]
    assert "is abandoned; not undone: reserve" in acts["abandon"]


def test_a_saga_whose_undo_is_stuck():
    acts = possible(replied(Reserve, Reserved()), refused(Ship), failed(Unreserve))

    assert acts["retry reserve"] == "is parked no more; issues reserve/undo/2"
    assert acts["skip reserve"].startswith("is parked no more; settles reserve as skipped")
    assert "is rolled back" in acts["mark reserve undone"]
    assert "compensate" not in acts
    assert "cancel graceful" not in acts


def test_a_paused_saga_is_resumed_with_what_came_meanwhile():
    acts = possible(operator("pause"), replied(Reserve, Reserved()))

    assert acts["resume"] == "issues ship/do/1"
    assert "pause" not in acts


def test_a_saga_that_a_failed_turn_holds():
    acts = possible(turn_failed("x"))

    assert acts["release"] == "goes on where it stood; what was deferred follows"
    assert not {name for name in acts if name.startswith(("cancel", "mark", "resume"))}


def test_an_ended_saga_is_only_run_again():
    assert set(possible(cancelled(mode="abandon"))) == {"rerun"}


@pytest.mark.parametrize(
    "act", [each for each in CommandAct if each not in {"signal", "undo", "update", "migrate"}]
)
def test_every_act_is_tried(act):
    """A new one must be tried, too; a migration has a dry run of its own."""
    assert act in ALL
