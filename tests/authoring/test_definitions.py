"""A definition that cannot work is refused when it is made, with file and line and what to do."""

import inspect

import pytest

from saga.authoring import Context, SagaRegistry, saga
from saga.contracts import ContractRegistry, Event, Intent
from saga.errors import DefinitionError, DuplicateSaga
from tests.toys import (
    Notify,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    OrderSeen,
    Pay,
    Refund,
    Ship,
    as_saga,
    order_saga,
)


class Charge(Intent[None], topic="shop.charge", version=1):
    order_id: str = "o-1"
    receipt: str


class Undated(Event, topic="shop.undated", version=1):
    order_id: str
    reason: str
    when: str


class Unsure(Event, topic="shop.unsure", version=1):
    failed_step: str


def refusal(make):
    """What making a definition raised."""
    with pytest.raises(DefinitionError) as found:
        make()
    return str(found.value)


def line_of(function, text):
    """`file:line` of the first line of *function*'s source that has *text* in it."""
    lines, first = inspect.getsourcelines(function)
    number = next(n for n, line in enumerate(lines) if text in line and "line_of" not in line)
    return f"{__file__}:{first + number}"


def test_undo_that_needs_a_field_only_the_reply_has_is_refused():
    """A reply may never come. Named are the field, the line of the call, and the remedy."""

    def make():
        async def order(ctx, placed):
            await ctx.do(Ship())
            await ctx.do(Pay(), undo=Charge)

        as_saga(order)

    said = refusal(make)

    assert said.startswith(line_of(make, "undo=Charge") + ": ")
    assert "needs the field 'receipt', which Pay does not have" in said
    assert "give Charge.receipt a default" in said


def test_undo_that_needs_a_field_is_refused_by_the_context_where_source_is_silent():
    """An intent that a helper makes is checked when the call is made."""
    from saga.testing import given

    def make_intent():
        return Pay()

    async def order(ctx, placed):
        await ctx.do(make_intent(), undo=Charge)

    given(as_saga(order), contracts=[Pay, Charge]).when(OrderPlaced()).then_parked("'receipt'")


def test_undo_of_an_unknown_name_is_refused():
    """Not only when the step is reached."""

    def make():
        async def order(ctx, placed):
            await ctx.do(Pay(), undo=Refnud)  # noqa: F821

        as_saga(order)

    said = refusal(make)

    assert "undo=Refnud: there is no such name" in said
    assert said.startswith(line_of(make, "Refnud"))


def test_undo_that_is_no_intent_is_refused():
    """An event undoes nothing."""

    def make():
        async def order(ctx, placed):
            await ctx.do(Pay(), undo=OrderSeen)

        as_saga(order)

    assert "undo=OrderSeen is no Intent class" in refusal(make)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"key": "oder_id"}, "key 'oder_id' is no field of OrderPlaced"),
        ({"rolled_back": Undated}, "needs the field 'when'"),
        ({"rolled_back": Unsure}, "failed_step must be `str | None`"),
        ({"when_stuck": "hold"}, "when_stuck is 'halt' or 'continue'"),
        ({"starts_on": ()}, "starts on nothing"),
        ({"starts_on": Pay}, "which is no Event class"),
        ({"starts_on": OrderSeen}, "OrderSeen names no key"),
        ({"version": 0}, "version 0 is no positive number"),
        ({"name": ""}, "1 to 100 printable characters"),
        ({"name": "a/b"}, "without '/'"),
        ({"name": "a\nb"}, "printable"),
    ],
)
def test_option_that_cannot_work_is_refused_with_the_place(options, problem):
    """Named is the function that is decorated."""

    async def order(ctx, placed):
        return None

    defaults = {"name": "order", "version": 1, "starts_on": OrderPlaced}
    chosen = {**defaults, **options}

    said = refusal(lambda: saga(chosen.pop("name"), **chosen)(order))

    assert problem in said
    assert said.startswith(f"{__file__}:{order.__code__.co_firstlineno}: ")


def test_function_that_is_not_async_is_refused():
    def order(ctx, placed):
        return None

    assert "must be an `async def (ctx, trigger)`" in refusal(lambda: as_saga(order))


@pytest.mark.parametrize("count", [1, 3])
def test_function_takes_exactly_two_arguments(count):
    async def one(ctx):
        return None

    async def three(ctx, placed, more):
        return None

    function = one if count == 1 else three
    assert "exactly two arguments" in refusal(lambda: as_saga(function))


def test_two_sagas_of_one_name_and_version_are_refused():
    one, two = order_saga(), as_saga(order_saga().function)
    contracts = ContractRegistry([*one.contracts()])

    with pytest.raises(DuplicateSaga) as found:
        SagaRegistry([one, two], contracts)

    assert one.where in str(found.value)
    assert "give one of them another name, or a new version" in str(found.value)


def test_versions_of_one_saga_live_side_by_side():
    """The newest one is started; the others go on with what they began."""

    def version(number):
        @saga("order", version=number, starts_on=OrderPlaced)
        async def order(ctx: Context, placed: OrderPlaced) -> None:
            return None

        return order

    sagas = [version(number) for number in (1, 3, 2)]
    registry = SagaRegistry(sagas, ContractRegistry([OrderPlaced]))
    (started,) = registry.started_by("shop.evt.order-placed.v1")

    assert started.saga.version == 3
    assert registry.find("order", 1).saga is sagas[0]
    assert registry.find("order", 4) is None
    assert registry.triggers() == {"shop.evt.order-placed.v1"}
    assert set(registry.all()) == {("order", 1), ("order", 2), ("order", 3)}


def test_contracts_are_found_in_the_source():
    """Those that the function names, and those that its helpers name."""

    async def helper(ctx):
        await ctx.do(Notify())

    async def order(ctx, placed):
        await ctx.do(Pay(), undo=Refund)
        await helper(ctx)
        return OrderConfirmed()

    expected = {OrderPlaced, Pay, Refund, Notify, OrderConfirmed, OrderRejected}
    assert as_saga(order).contracts() == expected


def test_key_may_be_a_field_or_a_function():
    """By default it is the event's own."""

    async def order(ctx, placed):
        return None

    placed = OrderPlaced(order_id="o-7", amount=5)

    assert as_saga(order).key_of(placed) == "o-7"
    assert as_saga(order, key="amount").key_of(placed) == "5"
    assert as_saga(order, key=lambda one: f"{one.order_id}!").key_of(placed) == "o-7!"
    with pytest.raises(ValueError, match="empty business key"):
        as_saga(order).key_of(OrderPlaced(order_id=""))


def test_fingerprint_is_of_what_the_function_says():
    """Comments, docstrings and layout do not count; what is done does."""

    def first():
        async def order(ctx, placed):
            """Pays."""
            await ctx.do(Pay())  # now

        return as_saga(order)

    def same():
        async def order(ctx, placed):
            await ctx.do(Pay())

        return as_saga(order)

    def other():
        async def order(ctx, placed):
            await ctx.do(Ship())

        return as_saga(order)

    assert first().fingerprint == same().fingerprint != other().fingerprint


def test_function_without_source_is_accepted():
    """What was typed at a prompt is checked when it runs."""
    names = {"Pay": Pay}
    exec("async def order(ctx, placed):\n    await ctx.do(Pay())\n", names)

    made = as_saga(names["order"])

    assert Pay in made.contracts()
    assert len(made.fingerprint) == 16
