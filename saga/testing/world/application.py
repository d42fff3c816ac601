"""The user's application as a world runs it: fakes in place of handlers, and a ledger of effects.

Each effect has one line in the ledger, of the transaction that keeps the inbox row. A handler that
does not use `ctx.db` is made to use it now and then. Before and after `async def` handlers a
process may crash; `def` handlers run in line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from itertools import chain
from typing import Any, Final

from saga.app import SagaApp
from saga.contracts import ContractModel, Event, Intent, contract_of
from saga.effects import EffectContext, Effects
from saga.effects.registration import Handler, Limits
from saga.errors import DefinitionError
from saga.testing.world.evidence import Line
from saga.testing.world.isolation import working_for
from saga.testing.world.process import Process, current_process
from saga.testing.world.stores import EffectsDatabase

Function = Callable[..., Any]

_INSERT: Final = (
    "INSERT INTO saga_world_ledger VALUES (:number, :saga_id, :step, :direction, :intent_id)"
)
_SELECT: Final = "SELECT number, saga_id, step, direction, intent_id FROM saga_world_ledger"
WRITING_SHARE: Final = 0.5
FAKES: Final = "world-fakes"
"""The service of those fakes whose intents no service of the application handles."""


def check_releases(applications: Sequence[Sequence[SagaApp]]) -> None:
    """Refuse releases of another application, and applications that share a saga or a service.

    Raises:
        DefinitionError: says which.
    """
    owners: dict[str, SagaApp] = {}
    for app, *deploys in applications:
        for release in deploys:
            if release.name != app.name:
                raise DefinitionError(
                    f"{release.name!r} is no release of {app.name!r}: give both one name, "
                    f"SagaApp(…, name={app.name!r}), or put it into World(…, beside=[…])"
                )
        releases = (app, *deploys)
        sagas = {f"saga {saga.name!r}" for release in releases for saga in release.sagas}
        services = {f"service {each.name!r}" for release in releases for each in release.effects}
        for what in sorted(sagas | services):
            other = owners.setdefault(what, app)
            if other is not app:
                raise DefinitionError(
                    f"applications {other.name!r} and {app.name!r} both have {what}: both would do "
                    f"its work"
                )


def with_fakes(
    applications: Sequence[Sequence[SagaApp]], replace: Mapping[type[Any], Function]
) -> list[list[SagaApp]]:
    """All releases of each application with the functions of *replace* as handlers.

    Raises:
        DefinitionError: an intent is handled by nobody, or a fake stands for no intent of them.
    """
    everybody = [release for releases in applications for release in releases]
    handled = {model for app in everybody for service in app.effects for model in service.intents}
    owners: dict[type[Any], Sequence[SagaApp]] = {}
    for model in replace:
        name = contract_of(model).contract_name
        knowing = [each for each in applications if any(name in app.contracts for app in each)]
        if not knowing:
            raise DefinitionError(f"replace has a fake for {name}, which no saga here issues")
        owners[model] = knowing[0]
    faked: list[list[SagaApp]] = []
    for number, releases in enumerate(applications):
        service = f"{FAKES}-{number}" if number else FAKES
        own = {each: replace[each] for each, owner in owners.items() if owner is releases}
        left = {each: fake for each, fake in own.items() if each not in handled}
        faked.append([_with_fakes(app, replace, left, service) for app in releases])
    for app in chain.from_iterable(faked):
        known = {contract_of(model).contract_name for model in handled | replace.keys()}
        nobody = [name for name in app.unhandled_intents() if name not in known]
        if nobody:
            raise DefinitionError(
                f"nobody handles {', '.join(nobody)}: give a fake for each, World(…, replace={{…}})"
            )
    return faked


def _with_fakes(
    app: SagaApp,
    replace: Mapping[type[Any], Function],
    left: Mapping[type[Any], Function],
    service: str,
) -> SagaApp:
    """*app* with those of *replace* that it handles, and a *service* for those *left* to it."""

    def function_of(model: type[ContractModel], handler: Handler) -> Function:
        return replace.get(model, handler.function)

    services = [_cloned(each, function_of) for each in app.effects]
    fakes = Effects(service)
    for model, fake in left.items():
        if contract_of(model).contract_name in app.contracts:
            _handle(fakes, model, fake)
    return _copied(app, [*services, fakes] if fakes.intents else services)


def watched(app: SagaApp) -> SagaApp:
    return _copied(app, [_cloned(each, _watched) for each in app.effects])


def ledger(database: EffectsDatabase) -> list[Line]:
    """Every effect that was carried out, in order; to undo what was never done is none."""
    lines: list[Line] = []
    done: set[tuple[str, str]] = set()
    for line in (Line(**row) for row in database.ledger(_SELECT)):
        step = (line.saga_id, line.step)
        if line.direction == "do":
            done.add(step)
        if step in done:
            lines.append(line)
    return lines


def _handle(
    service: Effects, model: type[ContractModel], function: Function, limits: Limits | None = None
) -> None:
    assert issubclass(model, Intent), model
    limits = limits or Limits()
    service.on(model, at_once=limits.at_once, per_second=limits.per_second)(function)


def _cloned(
    service: Effects, function_of: Callable[[type[ContractModel], Handler], Function]
) -> Effects:
    """*service* with other functions for its intents."""
    clone = Effects(service.name)
    for starter in service.starters:
        clone.on_start(starter.function)
    for middleware in service.middleware:
        clone.around(middleware)
    for model, handler in service.intents.items():
        _handle(clone, model, function_of(model, handler), handler.limits)
    for model, handler in service.facts.items():
        assert issubclass(model, Event), model
        clone.listens(model)(handler.function)
    return clone


def _copied(app: SagaApp, effects: list[Effects]) -> SagaApp:
    contracts = [contract.model for contract in app.contracts.published]
    return SagaApp(
        sagas=app.sagas,
        effects=effects,
        contracts=contracts,
        name=app.name,
        around_turns=app.around_turns,
    )


def _watched(_: type[ContractModel], handler: Handler) -> Function:
    function, who = handler.function, f"handler {handler.name}"

    @wraps(function)
    async def watched_async(intent: Any, ctx: EffectContext) -> Any:
        process, db = _process(), _Noting(ctx.db)
        await process.work()
        with working_for(who):
            reply = await function(intent, replace(ctx, db=db))
        if db.is_used or _is_to_write(process):
            await ctx.db.execute(_INSERT, **_line(process, ctx))
        await process.work()
        return reply

    @wraps(function)
    def watched_sync(intent: Any, ctx: EffectContext) -> Any:
        process, db = _process(), _Noting(ctx.db)
        with working_for(who):
            reply = function(intent, replace(ctx, db=db))
        if db.is_used or _is_to_write(process):
            ctx.db.execute(_INSERT, **_line(process, ctx))
        return reply

    return watched_async if handler.is_async else watched_sync


class _Noting:
    """A handler's database; says whether it was used."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self.is_used = False

    def __getattr__(self, name: str) -> Any:
        self.is_used = True
        return getattr(self._db, name)


def _is_to_write(process: Process) -> bool:
    return process.surroundings.faults.rng.random() < WRITING_SHARE


def _process() -> Process:
    process = current_process()
    assert process is not None, "a watched application runs in worlds only"
    return process


def _line(process: Process, ctx: EffectContext) -> dict[str, Any]:
    saga_id, step, direction = ctx.idempotency_key.rsplit("/", 2)
    number = process.surroundings.next_number()
    return Line(number, saga_id, step, direction, ctx.intent_id)._asdict()
