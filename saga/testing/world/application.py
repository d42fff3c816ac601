"""The user's application as a world runs it: fakes in place of handlers, and a ledger of effects.

Every handler is called inside a wrapper. Before and after it a process may crash, and each effect
writes one line into the world's ledger, in the very transaction that keeps the inbox row. So the
checks know what was really carried out, whatever the handler does. `def` handlers run in line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final

from saga.app import SagaApp
from saga.contracts import ContractModel, Event, Intent, contract_of
from saga.effects import EffectContext, Effects
from saga.effects.registration import Handler
from saga.errors import DefinitionError
from saga.testing.world.checks import Line
from saga.testing.world.isolation import working_for
from saga.testing.world.process import Process, current_process
from saga.testing.world.stores import EffectsDatabase

Function = Callable[..., Any]

_TABLE: Final = """CREATE TABLE IF NOT EXISTS saga_world_ledger (
    number INTEGER PRIMARY KEY, saga_id TEXT NOT NULL, step TEXT NOT NULL,
    direction TEXT NOT NULL, intent_id TEXT NOT NULL)"""
_INSERT_DO: Final = (
    "INSERT INTO saga_world_ledger VALUES (:number, :saga_id, :step, 'do', :intent_id)"
)
# To undo what was never done is no effect.
_INSERT_UNDO: Final = (
    "INSERT INTO saga_world_ledger SELECT :number, :saga_id, :step, 'undo', :intent_id"
    " WHERE EXISTS (SELECT 1 FROM saga_world_ledger"
    " WHERE saga_id = :saga_id AND step = :step AND direction = 'do')"
)
_SELECT: Final = (
    "SELECT number, saga_id, step, direction, intent_id FROM saga_world_ledger ORDER BY number"
)
FAKES: Final = "world-fakes"
"""The service of those fakes whose intents no service of the application handles."""


def with_fakes(app: SagaApp, replace: Mapping[type[Any], Function]) -> SagaApp:
    """*app* with the functions of *replace* as handlers of their intents.

    Raises:
        DefinitionError: an intent is handled by nobody, or a fake stands for no intent of *app*.
    """
    left = dict(replace)
    services: list[Effects] = []
    for service in app.effects:
        services.append(clone := Effects(service.name))
        for model, handler in service.intents.items():
            _handle(clone, model, left.pop(model, handler.function))
        _copy_others(service, clone)
    fakes = Effects(FAKES)
    for model, fake in left.items():
        name = contract_of(model).contract_name
        if name not in app.contracts:
            raise DefinitionError(f"replace has a fake for {name}, which no saga here issues")
        _handle(fakes, model, fake)
    faked = _copied(app, [*services, fakes] if left else services)
    nobody = faked.unhandled_intents()
    if nobody:
        raise DefinitionError(
            f"nobody handles {', '.join(nobody)}: give a fake for each, World(…, replace={{…}})"
        )
    return faked


def watched(app: SagaApp) -> SagaApp:
    """*app* whose handlers write the ledger."""
    services: list[Effects] = []
    for service in app.effects:
        services.append(clone := Effects(service.name))
        clone.on_start(_make_ledger)
        for model, handler in service.intents.items():
            _handle(clone, model, _watched(handler))
        _copy_others(service, clone)
    return _copied(app, services)


def ledger(database: EffectsDatabase) -> list[Line]:
    """Every effect that was carried out, in order."""
    return [Line(**row) for row in database.fetch(_SELECT)]


def _handle(service: Effects, model: type[ContractModel], function: Function) -> None:
    assert issubclass(model, Intent), model
    service.on(model)(function)


def _copy_others(service: Effects, clone: Effects) -> None:
    for model, handler in service.facts.items():
        assert issubclass(model, Event), model
        clone.listens(model)(handler.function)
    for starter in service.starters:
        clone.on_start(starter.function)


def _copied(app: SagaApp, effects: list[Effects]) -> SagaApp:
    contracts = [contract.model for contract in app.contracts.published]
    return SagaApp(sagas=app.sagas, effects=effects, contracts=contracts)


async def _make_ledger(db: Any) -> None:
    await db.execute(_TABLE)


def _watched(handler: Handler) -> Function:
    function, who = handler.function, f"handler {handler.name}"

    @wraps(function)
    async def watched_async(intent: Any, ctx: EffectContext) -> Any:
        process = _process()
        await process.work()
        with working_for(who):
            reply = await function(intent, ctx)
        sql, values = _line(process, ctx)
        await ctx.db.execute(sql, **values)
        await process.work()
        return reply

    @wraps(function)
    def watched_sync(intent: Any, ctx: EffectContext) -> Any:
        with working_for(who):
            reply = function(intent, ctx)
        sql, values = _line(_process(), ctx)
        ctx.db.execute(sql, **values)
        return reply

    return watched_async if handler.is_async else watched_sync


def _process() -> Process:
    process = current_process()
    assert process is not None, "a watched application runs in worlds only"
    return process


def _line(process: Process, ctx: EffectContext) -> tuple[str, dict[str, Any]]:
    saga_id, step, direction = ctx.idempotency_key.rsplit("/", 2)
    values = {
        "number": process.surroundings.next_number(),
        "saga_id": saga_id,
        "step": step,
        "intent_id": ctx.intent_id,
    }
    return _INSERT_DO if direction == "do" else _INSERT_UNDO, values
