"""What a difference is like: its kind, its fields, and the line of the code that decides so."""

import inspect

import pytest
from pydantic import Field

from saga import Acts, Next, State, do, machine
from saga.audit.differences import CHANGES_MAX, Change, Kind
from saga.audit.replaying import replay_one
from saga.authoring.graphs import ContractGraph
from saga.authoring.registry import SagaRegistry
from saga.contracts import ContractRegistry, Event, Intent
from saga.core.history import History, turns
from saga.core.identity import Instant
from saga.core.status import SagaStatus
from saga.errors import CorruptHistory, UnknownEntry
from saga.ports import SagaSummary
from saga.testing import given, replied
from tests.authoring.graphs import orders
from tests.authoring.graphs.orders import ORDER
from tests.toys import (
    CONTRACTS,
    Notify,
    OrderConfirmed,
    OrderPlaced,
    Paid,
    Pay,
    Refund,
    Ship,
    as_saga,
)


def found(code, history, *contracts):
    """What a replay of *history* by *code* finds."""
    if isinstance(code, ContractGraph):
        code = code.resolve(list(contracts))
    registry = ContractRegistry({*code.contracts(), *contracts})
    saga = history[0].saga_id
    summary = SagaSummary(
        saga, code.name, 1, "o-1", SagaStatus.RUNNING, Instant(0), Instant(0), None, None, 1
    )
    stored = {saga: History(turns(history))}
    return replay_one(SagaRegistry([code], registry), summary, stored).finding


async def pay_then_ship(ctx, placed):
    await ctx.do(Pay(amount=3), undo=Refund, timeout="30s")
    await ctx.do(Ship())
    return OrderConfirmed()


async def dearer(ctx, placed):
    await ctx.do(Pay(amount=4), undo=Refund, timeout="30s")


async def unshipped(ctx, placed):
    await ctx.do(Pay(amount=3), undo=Refund, timeout="30s")
    return OrderConfirmed()


async def told_in_between(ctx, placed):
    await ctx.do(Pay(amount=3), undo=Refund, timeout="30s")
    await ctx.do(Notify())
    await ctx.do(Ship())


async def notified(ctx, placed):
    await ctx.do(Pay(amount=3), undo=Refund, timeout="30s")
    await ctx.do(Ship())
    await ctx.do(Notify())


async def both_at_once(ctx, placed):
    await ctx.all(ctx.do(Ship()), ctx.do(Notify()))


async def both_the_other_way(ctx, placed):
    await ctx.all(ctx.do(Notify()), ctx.do(Ship()))


async def patient(ctx, placed):
    await ctx.do(Pay(amount=3), undo=Refund)
    await ctx.do(Ship())


async def waits(ctx, placed):
    await ctx.do(Pay(amount=3), undo=Refund, timeout="30s")
    await ctx.wait("approval", str)


async def raises(ctx, placed):
    await ctx.do(Pay(amount=3), undo=Refund, timeout="30s")
    raise KeyError("gone")


async def elsewhere(ctx, placed):
    await ctx.do(Pay(amount=3), undo=Refund, timeout="30s")
    await ctx.do(Ship())
    return OrderConfirmed(shelf="s-2")


def line_of(function, text):
    """`file:line` of the line of *function* that has *text* in it."""
    lines, first = inspect.getsourcelines(function)
    [number] = [number for number, line in enumerate(lines) if text in line]
    return f"{__file__}:{first + number}"


PAID = (OrderPlaced(), replied(Pay, Paid()))
ISSUED, ENDED = "intent-issued", "saga-completed"
SHIPPED = (*PAID, replied(Ship))


@pytest.mark.parametrize(
    ("before", "happened", "now", "expected", "line"),
    [
        (pay_then_ship, PAID, dearer, (Kind.OTHER_PAYLOAD, 2, ISSUED), "Pay(amount=4)"),
        (pay_then_ship, PAID, unshipped, (Kind.STEP_MISSING, 6, ISSUED), "Pay(amount=3)"),
        (pay_then_ship, PAID, told_in_between, (Kind.OTHER_STEP, 6, ISSUED), "Notify()"),
        (pay_then_ship, PAID, waits, (Kind.STEP_MISSING, 6, ISSUED), "approval"),
        (unshipped, PAID, pay_then_ship, (Kind.STEP_MORE, 6, ENDED), "Ship()"),
        (
            pay_then_ship,
            SHIPPED,
            notified,
            (Kind.STEP_MORE, 8, ENDED),
            "Notify()",
        ),
        (
            both_at_once,
            (OrderPlaced(),),
            both_the_other_way,
            (Kind.OTHER_ORDER, 2, ISSUED),
            "ctx.all",
        ),
        (pay_then_ship, PAID, patient, (Kind.TIMER_MISSING, 3, "timer-armed"), None),
        (pay_then_ship, PAID, raises, (Kind.CODE_RAISED, 4, "reply-received"), "raise KeyError"),
        (
            pay_then_ship,
            SHIPPED,
            elsewhere,
            (Kind.OTHER_PAYLOAD, 8, ENDED),
            None,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_kind_entry_and_line_of_a_difference_are_told(before, happened, now, expected, line):
    history = given(as_saga(before), *happened, contracts=CONTRACTS).history

    finding = found(as_saga(now), history, *CONTRACTS)

    assert (finding.kind, finding.version, finding.type) == expected
    version = finding.version
    assert finding.at == history[version - 1].at
    if line is not None:
        assert finding.where == line_of(now, line)


def test_same_code_differs_in_nothing():
    history = given(as_saga(pay_then_ship), *SHIPPED, contracts=CONTRACTS).history

    assert found(as_saga(pay_then_ship), history, *CONTRACTS) is None


def test_fields_that_differ_are_told_by_their_paths():
    history = given(as_saga(pay_then_ship), *SHIPPED, contracts=CONTRACTS).history

    assert found(as_saga(dearer), history, *CONTRACTS).changes == (
        Change("payload.amount", "3", "4"),
    )
    assert found(as_saga(elsewhere), history, *CONTRACTS).changes == (
        Change("outcome.payload.shelf", '"s-1"', '"s-2"'),
    )
    assert found(as_saga(unshipped), history, *CONTRACTS).changes == ()


def packing(contract, **packed):
    async def pack(ctx, placed):
        await ctx.do(contract(**packed))

    return as_saga(pack)


def packed(contract, *, before, now, contract_now=None):
    """The changes that are told, of a step that is given other contents now."""
    history = given(packing(contract, **before), OrderPlaced(), contracts=[contract]).history
    today = contract_now or contract
    return found(packing(today, **now), history, today)


class Pack(Intent[None], topic="diff.pack", version=1):
    items: list[dict[str, int | bool | None]] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)


def test_lists_objects_and_odd_names_have_paths():
    finding = packed(
        Pack,
        before={"items": [{"n": 1}, {"n": 2}], "labels": {"a b": "x", "gone": "y"}},
        now={"items": [{"n": 1}, {"n": 3}, {"n": None}], "labels": {"a b": "z"}},
    )

    assert finding.kind is Kind.OTHER_PAYLOAD
    assert finding.changes == (
        Change("payload.items[1].n", "2", "3"),
        Change("payload.items[2]", None, '{"n":null}'),
        Change('payload.labels["a b"]', '"x"', '"z"'),
        Change("payload.labels.gone", '"y"', None),
    )


def test_one_is_not_true_and_long_texts_differ_at_their_end():
    bools = packed(Pack, before={"items": [{"n": 1}]}, now={"items": [{"n": True}]})
    texts = packed(
        Pack, before={"labels": {"a": 500 * "x" + "1"}}, now={"labels": {"a": 500 * "x" + "2"}}
    )

    assert bools.changes == (Change("payload.items[0].n", "1", "true"),)
    assert [change.path for change in texts.changes] == ["payload.labels.a"]
    assert len(texts.changes[0].recorded) < 300


def test_many_changes_are_counted():
    finding = packed(
        Pack,
        before={"items": [{"n": number} for number in range(50)]},
        now={"items": [{"n": number + 1} for number in range(50)]},
    )

    assert len(finding.changes) == CHANGES_MAX
    assert finding.unsaid == 50 - CHANGES_MAX


def test_an_optional_field_more_is_no_change_beside_one():
    """What was recorded is read by today's contract before it is compared."""

    class Wrap(Intent[None], topic="diff.wrap", version=1):
        n: int

    before = packing(Wrap, n=1)
    history = given(before, OrderPlaced(), contracts=[Wrap]).history

    class WrapNow(Intent[None], topic="diff.wrap", version=1):
        n: int
        note: str | None = None

    assert found(packing(WrapNow, n=2), history, WrapNow).changes == (
        Change("payload.n", "1", "2"),
    )


class Asked(Event, topic="diff.asked", version=1, key="id"):
    id: str = "a-1"


class Answered(Event, topic="diff.answered", version=1):
    text: str = "yes"


class Ask(Intent[Answered], topic="diff.ask", version=1):
    id: str = "a-1"
    n: int = 1


def test_a_graph_names_the_line_of_the_node():
    def of(text):
        return ContractGraph("order.yaml", text.encode())

    dearer_now = ORDER.replace("payments.pay,", "payments.pay, with: {amount: 7},")
    happened = (orders.OrderPlaced(), replied(orders.Reserve, orders.StockReserved()))
    history = given(of(ORDER), *happened, contracts=orders.MODELS).history

    finding = found(of(dearer_now), history, *orders.MODELS)

    assert finding.kind is Kind.OTHER_PAYLOAD
    assert finding.changes == (Change("payload.amount", "3", "7"),)
    [line] = [n for n, text in enumerate(ORDER.splitlines(), 1) if "node_id: pay," in text]
    assert finding.where == f"order.yaml:{line}"


def test_a_machine_names_the_function_whose_act_it_is():
    class Ended(State): ...

    def asking(amount):
        class Asking(State):
            def enter(self) -> Acts:
                return do(Ask(n=amount))

            def handle(self, event: Answered):
                return Ended()

        Asking.handle.__annotations__["return"] = Next[Ended]

        def begin(asked: Asked):
            return Asking()

        begin.__annotations__["return"] = Next[Asking]
        table = {Asking: {Answered: Ended}}
        made = machine("asking", version=1, starts_on=Asked, transitions=table)(begin)
        return made, Asking.enter

    history = given(asking(1)[0], Asked()).history
    now, enter = asking(2)

    finding = found(now, history)

    assert finding.changes == (Change("payload.n", "1", "2"),)
    assert finding.where == f"{__file__}:{enter.__code__.co_firstlineno}"


def test_a_corrupt_history_and_an_unknown_entry_are_told_apart():
    history = given(as_saga(pay_then_ship), OrderPlaced(), contracts=CONTRACTS).history
    saga = history[0].saga_id
    summary = SagaSummary(
        saga, "order", 1, "o-1", SagaStatus.RUNNING, Instant(0), Instant(0), None, None, 1
    )
    registry = SagaRegistry([as_saga(pay_then_ship)], ContractRegistry([*CONTRACTS, OrderPlaced]))

    def kind(error):
        return replay_one(registry, summary, {saga: error}).finding.kind

    assert kind(CorruptHistory(saga, 3, "no JSON")) is Kind.CANNOT_BE_READ
    assert kind(UnknownEntry(saga, 3, "no such entry")) is Kind.UNKNOWN_ENTRY
    assert replay_one(registry, summary, {}).finding.kind is Kind.CANNOT_BE_READ
