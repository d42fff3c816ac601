"""The how-to of simulated worlds does what it says; its thousand worlds are fewer here."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from saga import Effects, SagaApp, saga, testing
from saga.testing import World

# A world ends after so many rounds of its loop, on any machine.
pytestmark = pytest.mark.timeout(0)
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "simulate-your-saga.md"
WORLDS = 60


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The page's program."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path = tmp_path_factory.mktemp("how-to") / "shop_worlds.py"
    # Topics of its own: other tests of this process have contracts of the same names.
    path.write_text(code.replace('topic="', 'topic="page-'))
    spec = spec_from_file_location("shop_worlds", path)
    module = sys.modules["shop_worlds"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["shop_worlds"]


def test_the_page_runs_a_thousand_worlds(program: ModuleType) -> None:
    """It counts as many as it says."""
    assert program.WORLDS == 1000
    assert "a thousand worlds" in PAGE.read_text()


def test_its_shop_holds_in_every_world(program: ModuleType) -> None:
    """The page's own test passes, and orders are confirmed and rejected on the way."""
    statuses: set[str] = set()
    program.CHECKS.append(lambda world: statuses.update(saga.status for saga in world.sagas))
    for seed in range(WORLDS):
        program.test_orders_hold_in_every_world(seed)

    assert {"completed", "rolled_back"} <= statuses


def test_its_stories_can_be_told(program: ModuleType) -> None:
    """The acts of the second one are taken in one world or another."""
    blocks = re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    first, second = (block.partition("[")[1:] for block in blocks if "OrderPlaced(" in block)
    names = vars(testing) | vars(program)
    seen: Counter[str] = Counter()
    for seed in range(WORLDS):
        stories = [*eval("".join(first), names), eval("".join(second), names)]
        verdict = World(program.app, seed, triggers=stories, replace={program.Pay: program.bank})
        seen += verdict.run().statistics

    assert {"SignalReceived", "mark taken", "rerun taken", "fire-timer refused"} <= seen.keys()


def test_its_application_is_deployed_again_and_has_another_one_beside_it(
    program: ModuleType,
) -> None:
    """The worlds that the page shows can be made, and hold."""
    blocks = re.findall(r"```text\n(World\(.*?)```", PAGE.read_text(), re.DOTALL)
    couriers = Effects("couriers")

    @saga("parcel", version=1, starts_on=program.OrderConfirmed, key="order_id")
    async def parcel(ctx, confirmed) -> None:
        """Begins with what the first application says."""
        await ctx.sleep("1s")

    @saga("order", version=2, starts_on=program.OrderPlaced, rolled_back=program.OrderRejected)
    async def order_2(ctx, placed) -> program.OrderConfirmed:
        """Calls its first step otherwise."""
        reserve = program.Reserve(order_id=placed.order_id)
        await ctx.do(reserve, undo=program.Release, timeout="30s", id="hold")
        pay = program.Pay(order_id=placed.order_id, amount=placed.amount)
        await ctx.do(pay, kind="pivot")
        return program.OrderConfirmed(order_id=placed.order_id)

    services = [program.stock, program.payments]
    release = SagaApp(sagas=[program.order, order_2], effects=services)
    names = vars(testing) | vars(program)
    names |= {"parcel": parcel, "couriers": couriers, "first": program.app}
    names |= {"second": release, "third": program.app, "order_2": order_2}
    seen: Counter[str] = Counter()
    for block in blocks:
        for seed in range(WORLDS // 6):
            verdict = eval(block, names | {"seed": seed}).run()
            assert verdict.ok, verdict.report()
            seen += verdict.statistics

    assert len(blocks) == 4  # releases, the same once more, migrations, and beside
    assert {"deploy", "migrate taken", "saga completed", "saga rolled_back"} <= seen.keys()


def test_a_release_that_does_nothing_is_found_by_its_check(program: ModuleType) -> None:
    """What the page checks can fail."""

    async def forget(intent, ctx) -> None:
        """Releases nothing."""

    fakes = {program.Pay: program.bank, program.Release: forget}
    check = program.what_is_reserved_is_confirmed
    verdicts = [
        World(program.app, seed, triggers=program.orders, replace=fakes, check=check).run()
        for seed in range(5)
    ]

    said = {line.split(":")[0] for verdict in verdicts for line in verdict.violations}
    assert said == {"what_is_reserved_is_confirmed"}
