"""Worlds of applications that were written for nothing else: whatever a user's own looks like."""

import asyncio
import contextlib
import itertools
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from time import sleep

import pytest

from saga import (
    Context,
    EffectContext,
    Effects,
    Event,
    Intent,
    Refused,
    Retry,
    SagaApp,
    saga,
    upcast,
)
from saga.core.identity import saga_id
from saga.errors import DefinitionError
from saga.testing import World, WorldState, after, operator, redelivered, signalled
from saga.testing.world.loop import WORLD_BEGAN_AT

# A world ends after so many rounds of its loop, on any machine.
pytestmark = pytest.mark.timeout(0)
SEEDS = range(40)
BEGAN = datetime.fromtimestamp(WORLD_BEGAN_AT / 1_000_000, UTC).toordinal()


class LoanAsked(Event, topic="library.loan-asked", version=1, key="loan_id"):
    loan_id: str
    book: str


class LoanGranted(Event, topic="library.loan-granted", version=1):
    loan_id: str
    label: str


class LoanDenied(Event, topic="library.loan-denied", version=1):
    loan_id: str
    reason: str


class Labelled(Event, topic="library.labelled", version=1):
    label: str


class TakeOut(Intent[None], topic="shelves.take-out", version=1):
    loan_id: str
    book: str


class PutBack(Intent[None], topic="shelves.put-back", version=1):
    loan_id: str
    book: str


class PrintLabel(Intent[Labelled], topic="desk.print-label", version=1):
    loan_id: str


PATIENT = Retry(attempts=None, initial="1s", cap="10s")


@saga("loan", version=1, starts_on=LoanAsked, rolled_back=LoanDenied)
async def loan(ctx: Context, asked: LoanAsked) -> LoanGranted:
    out = TakeOut(loan_id=asked.loan_id, book=asked.book)
    await ctx.do(out, undo=PutBack, retry=PATIENT, timeout="30s")
    labelled = await ctx.do(PrintLabel(loan_id=asked.loan_id), kind="retriable")
    return LoanGranted(loan_id=asked.loan_id, label=labelled.label)


# One with `def` handlers, one of which keeps its state in a table.

shelves, desk = Effects("shelves"), Effects("desk")


@shelves.on_start
async def make_shelves(db) -> None:
    await db.execute("CREATE TABLE IF NOT EXISTS shelf (book TEXT PRIMARY KEY, left INTEGER)")
    await db.execute("INSERT OR IGNORE INTO shelf VALUES ('Dune', 3)")


@shelves.on(TakeOut)
def take_out(intent: TakeOut, ctx: EffectContext) -> None:
    taken = ctx.db.execute(
        "UPDATE shelf SET left = left - 1 WHERE book = :book AND left > 0", book=intent.book
    )
    if not taken:
        raise Refused("none left", code="none_left")


@shelves.on(PutBack)
async def put_back(intent: PutBack, ctx: EffectContext) -> None:
    await ctx.db.execute("UPDATE shelf SET left = left + 1 WHERE book = :book", book=intent.book)


@desk.on(PrintLabel)
def print_label(intent: PrintLabel, ctx: EffectContext) -> Labelled:
    return Labelled(label=f"{intent.loan_id} {ctx.attempt > 0}")


library = SagaApp(sagas=[loan], effects=[shelves, desk])
DUNE = LoanAsked(loan_id="l-1", book="Dune")


def loans(rng: Random) -> list[LoanAsked]:
    """Some loans of a book of which there are three."""
    return [LoanAsked(loan_id=f"l-{n}", book="Dune") for n in range(rng.randint(1, 6))]


def no_book_is_lost(world: WorldState) -> None:
    """Of three books those are gone for which a loan was granted."""
    granted = world.topics[LoanGranted]
    (shelf,) = world.db["shelves"].fetch("SELECT left FROM shelf WHERE book = :b", b="Dune")
    assert shelf["left"] == 3 - len(granted), (shelf, granted)


def test_a_user_s_application_holds_in_every_world() -> None:
    """One with `def` handlers and a table: everything that can go wrong does, and all holds."""
    seen = _all_hold(library, SEEDS, triggers=loans, check=no_book_is_lost)

    expected = {"saga completed", "saga rolled_back", "crash before store.append", "kill"}
    assert expected | {"duplicate", "leap"} <= seen.keys()


# One whose saga takes days, waits for people, and is started by what another one says.


class VisaAsked(Event, topic="visa.visa-asked", version=1, key="name"):
    name: str


class VisaGranted(Event, topic="visa.visa-granted", version=1, key="name"):
    name: str
    by: str


class VisaDenied(Event, topic="visa.visa-denied", version=1):
    name: str
    reason: str


class Signature(Event, topic="visa.signature", version=1):
    by: str


class Stamp(Intent[None], topic="embassy.stamp", version=1):
    name: str


@saga("visa", version=1, starts_on=VisaAsked, rolled_back=VisaDenied)
async def visa(ctx: Context, asked: VisaAsked) -> VisaGranted:
    await ctx.sleep(timedelta(days=30))
    signature = await ctx.wait("signature", Signature)
    return VisaGranted(name=asked.name, by=signature.by)


@saga("journey", version=1, starts_on=VisaGranted)
async def journey(ctx: Context, granted: VisaGranted) -> None:
    await ctx.do(Stamp(name=granted.name))


abroad = SagaApp(sagas=[visa, journey])


async def stamp(intent: Stamp, ctx: EffectContext) -> None:
    """Takes a while of the world's time."""
    await asyncio.sleep(20 if ctx.attempt == 1 else 0)


def test_a_month_passes_in_no_time_and_intents_of_others_get_fakes() -> None:
    """Time leaps where all wait; one saga's outcome starts the next."""
    story = [VisaAsked(name="Ann"), after("40d"), signalled("signature", {"by": "Bo"})]
    seen: set[str] = set()

    def ann_has_travelled(world: WorldState) -> str | None:
        seen.update(f"{each.definition} {each.status.value}" for each in world.sagas)
        if any(each.status.value == "completed" for each in world.sagas):
            return None if world.topics[VisaGranted] == [VisaGranted(name="Ann", by="Bo")] else "!"
        return None

    for seed in range(15):
        fakes, check = {Stamp: stamp}, [ann_has_travelled]
        verdict = World(abroad, seed, triggers=[story], replace=fakes, check=check).run()

        assert verdict.ok, verdict.report()
        assert (
            verdict.lasted_s > timedelta(days=29).total_seconds() or "cancel" in verdict.statistics
        )
    assert {"visa completed", "journey completed"} <= seen


@saga("archive", version=1, starts_on=VisaAsked)
async def archive(ctx: Context, asked: VisaAsked) -> None:
    await ctx.sleep(timedelta(days=9 * 365))


def test_years_pass_as_a_month_does() -> None:
    """Times of years are told apart by less than a float's nanoseconds."""
    verdict = World(SagaApp(sagas=[archive]), 0, triggers=[VisaAsked(name="Ann")]).run()

    assert verdict.ok, verdict.report()
    assert verdict.lasted_s > timedelta(days=9 * 365).total_seconds()


def test_a_saga_that_waits_for_what_never_comes_is_cancelled_in_the_end() -> None:
    """So it ends, and the history says why."""
    verdict = World(abroad, 1, triggers=[VisaAsked(name="Ann")], replace={Stamp: stamp}).run()

    assert verdict.ok, verdict.report()
    assert verdict.statistics["saga rolled_back"] == 1


# One whose trigger has an older version.


class ReturnAskedV1(Event, topic="library.return-asked", version=1, key="loan_id"):
    loan_id: str


class ReturnAsked(Event, topic="library.return-asked", version=2, key="loan_id"):
    loan_id: str
    is_late: bool


@upcast
def in_time(old: ReturnAskedV1) -> ReturnAsked:
    """Nobody was late then."""
    return ReturnAsked(loan_id=old.loan_id, is_late=False)


@saga("giving-back", version=1, starts_on=ReturnAsked)
async def giving_back(ctx: Context, asked: ReturnAsked) -> None:
    await ctx.do(PrintLabel(loan_id=asked.loan_id), kind="retriable")


def test_a_trigger_of_an_older_version_starts_its_saga() -> None:
    """It counts as the trigger of the saga that it is read for."""
    app = SagaApp(sagas=[giving_back], effects=[desk])
    asked = [ReturnAskedV1(loan_id="l-1"), ReturnAsked(loan_id="l-2", is_late=True)]
    assert _all_hold(app, range(15), triggers=asked)["saga completed"] >= 15


# One that leaves its world.


class CallMade(Event, topic="phone.call-made", version=1, key="call_id"):
    call_id: str


class Dial(Intent[None], topic="phone.dial", version=1):
    call_id: str


@saga("call", version=1, starts_on=CallMade)
async def call(ctx: Context, made: CallMade) -> None:
    await ctx.do(Dial(call_id=made.call_id))


phone = Effects("phone")


@phone.on(Dial)
async def dial(intent: Dial, ctx: EffectContext) -> None:
    socket.create_connection(("127.0.0.1", 1))


telephony = SagaApp(sagas=[call], effects=[phone])
CALLS = [CallMade(call_id="c-1")]


def test_a_handler_that_opens_a_socket_is_refused_with_its_line() -> None:
    """The message names the handler, the file and the line, and says what to do."""
    with pytest.raises(DefinitionError) as raised:
        World(telephony, 7, triggers=CALLS).run()

    line = _line_of("socket.create_connection")
    assert raised.value.where == f"{__file__}:{line}"
    assert "handler dial" in str(raised.value)
    assert "opens a socket" in str(raised.value)
    assert "replace={" in str(raised.value)


def _open(intent: Dial, ctx: EffectContext) -> None:
    socket.socket()  # at once


async def _connect(intent: Dial, ctx: EffectContext) -> None:
    await asyncio.open_connection("example.org", 80)


async def _connect_in_a_task(intent: Dial, ctx: EffectContext) -> None:
    await asyncio.create_task(asyncio.open_connection("127.0.0.1", 80))


def _start_a_thread(intent: Dial, ctx: EffectContext) -> None:
    threading.Thread(target=print).start()


async def _go_to_a_thread(intent: Dial, ctx: EffectContext) -> None:
    await asyncio.to_thread(print)


def _run(intent: Dial, ctx: EffectContext) -> None:
    subprocess.run(["true"], check=True)


async def _execute(intent: Dial, ctx: EffectContext) -> None:
    await asyncio.create_subprocess_exec("true")


def _sleep(intent: Dial, ctx: EffectContext) -> None:
    time.sleep(10)


def _sleep_by_name(intent: Dial, ctx: EffectContext) -> None:
    sleep(20)


def _swallow(intent: Dial, ctx: EffectContext) -> None:
    with contextlib.suppress(BaseException):  # as some code does
        time.sleep(30)


@pytest.mark.parametrize(
    ("leaves", "does", "line"),
    [
        (_open, "opens a socket", "socket.socket()  # at once"),
        (_connect, "opens a socket", 'asyncio.open_connection("example'),
        (_connect_in_a_task, "opens a socket", None),
        (_start_a_thread, "starts a thread", "threading.Thread(target=print)"),
        (_go_to_a_thread, "starts a thread", "asyncio.to_thread"),
        (_run, "starts a process", "subprocess.run"),
        (_execute, "starts a process", "create_subprocess_exec"),
        (_sleep, "sleeps in real time", "time.sleep(10)"),
        (_sleep_by_name, "sleeps in real time", "sleep(20)"),
        (_swallow, "sleeps in real time", "time.sleep(30)"),
    ],
)
def test_leaving_the_world_stops_it(
    leaves: Callable[..., object], does: str, line: str | None
) -> None:
    """Whichever way a fake or handler takes, and whatever it makes of the refusal."""
    with pytest.raises(DefinitionError, match=does) as raised:
        World(telephony, 3, triggers=CALLS, replace={Dial: leaves}).run()

    assert leaves.__name__ in str(raised.value)
    if line is not None:
        assert str(raised.value).startswith(f"{__file__}:{_line_of(line)}: ")


@saga("sleepy", version=1, starts_on=CallMade)
async def sleepy(ctx: Context, made: CallMade) -> None:
    time.sleep(40)  # noqa: ASYNC251 - it is refused


def test_a_saga_that_really_sleeps_is_refused_with_its_line() -> None:
    """Sagas are watched as handlers are."""
    with pytest.raises(DefinitionError, match="saga 'sleepy' sleeps in real time") as raised:
        World(SagaApp(sagas=[sleepy]), 3, triggers=CALLS).run()

    assert raised.value.where == f"{__file__}:{_line_of('time.sleep(40)')}"


def test_what_is_refused_in_a_world_is_not_refused_outside_of_it() -> None:
    """Whatever a world has put in the way is gone when it is over."""

    def guarded() -> tuple[object, ...]:
        return time.sleep, globals()["sleep"], socket.socket.__init__, threading.Thread.start

    before = guarded()
    with pytest.raises(DefinitionError):
        World(telephony, 7, triggers=CALLS).run()

    assert guarded() == before


def test_a_fake_stands_for_a_handler() -> None:
    """So the same application runs without its telephone."""
    dialled: list[str] = []

    def note(intent: Dial, ctx: EffectContext) -> None:
        dialled.append(intent.call_id)

    verdict = World(telephony, 7, triggers=CALLS, replace={Dial: note}).run()

    assert verdict.ok, verdict.report()
    assert set(dialled) == {"c-1"}


def test_an_intent_that_nobody_handles_is_named() -> None:
    """A world has no other applications."""
    with pytest.raises(DefinitionError, match=r"nobody handles embassy\.int\.stamp\.v1"):
        World(abroad, 1, triggers=[])


def test_a_fake_for_nothing_is_refused() -> None:
    """It would never be called."""
    with pytest.raises(DefinitionError, match=r"embassy\.int\.stamp\.v1, which no saga"):
        World(library, 1, triggers=[], replace={Stamp: stamp})


@pytest.mark.parametrize(
    "story",
    [
        *([], [after("1s")], [DUNE, "later"]),
        *([DUNE, operator("mark", "take-out")], [DUNE, operator("rerun")]),
        [DUNE, operator("move-timer", "take-out")],
    ],
    ids=["empty", "no trigger", "no happening", "marked as what", "no key", "moved to when"],
)
def test_a_story_that_cannot_be_told_is_refused(story) -> None:
    """A story begins with an event and goes on with what `saga.testing` has for it."""
    with pytest.raises(DefinitionError, match="story"):
        World(library, 1, triggers=[story])


async def print_slowly(intent: PrintLabel, ctx: EffectContext) -> Labelled:
    """Long after somebody has written one by hand."""
    await asyncio.sleep(20)
    return Labelled(label="printed")


def test_a_reply_that_was_entered_counts_and_the_service_s_own_does_not() -> None:
    """Unless that was quicker; and both loans of one story say the same of each other."""
    by_hand = operator("mark", "print-label", state="done", reply=Labelled(label="by hand"))
    story = [DUNE, after("2s"), by_hand, after("1m"), operator("rerun", key="l-1-again")]
    labels: Counter[str] = Counter()
    reruns: Counter[str | None] = Counter()

    def each_has_one_label(world: WorldState) -> None:
        for granted in world.topics[LoanGranted]:
            labels[granted.label] += 1
        reruns.update(each.history[0].body.rerun_of for each in world.sagas)

    fakes = {PrintLabel: print_slowly}
    seen = _all_hold(library, SEEDS, triggers=[story], replace=fakes, check=each_has_one_label)

    assert labels.keys() == {"by hand", "printed"}
    assert reruns.total() == reruns[None] + reruns[saga_id("loan", "l-1")] > len(SEEDS)
    assert {"mark taken", "rerun taken"} <= seen.keys()


async def oversleep(ctx: Context, asked: VisaAsked) -> VisaGranted:
    await ctx.sleep(timedelta(days=30))
    return VisaGranted(name=asked.name, by=ctx.now().isoformat())


def test_timers_are_moved_and_fired_by_hand() -> None:
    """A month is over at once, or takes an hour more; nothing fires twice."""
    app = SagaApp(sagas=[saga("visa", version=1, starts_on=VisaAsked)(oversleep)])
    later, now = operator("move-timer", to="60d"), operator("fire-timer")
    ends: Counter[str] = Counter()

    def ended(world: WorldState) -> None:
        for granted in world.topics[VisaGranted]:
            ends[granted.by[:10]] += 1

    for acts in ([later], [now], [later, after("1s"), now]):
        _all_hold(app, SEEDS, triggers=[[VisaAsked(name="n"), after("1s"), *acts]], check=ended)

    days = {datetime.fromisoformat(day).toordinal() - BEGAN for day in ends}
    assert {0, 60} <= days


def test_what_an_application_s_own_check_finds_is_a_violation() -> None:
    """Both ways to say it, with the name of the check and how to repeat the world."""

    def raises(world: WorldState) -> None:
        assert not world.sagas, "there are sagas"

    def returns(world: WorldState) -> str:
        return f"{len(world.sagas)} sagas"

    verdict = World(library, 5, triggers=[DUNE], check=[raises, returns]).run()

    assert not verdict.ok
    said = [line.split("\n")[0] for line in verdict.violations]
    assert said == ["raises: there are sagas", "returns: 1 sagas"]
    assert "seed=5" in verdict.report()


MOODS = itertools.cycle((True, False))


@saga("moody", version=1, starts_on=LoanAsked)
async def moody(ctx: Context, asked: LoanAsked) -> None:
    for _ in range(3):
        if next(MOODS):  # something outside of the saga decides
            await ctx.do(TakeOut(loan_id=asked.loan_id, book=asked.book), undo=PutBack)
        else:
            await ctx.do(PrintLabel(loan_id=asked.loan_id))


def test_a_saga_that_is_not_deterministic_is_found_out() -> None:
    """Live and replayed state differ, whether or not a crash has shown it."""
    moods = SagaApp(sagas=[moody], effects=[shelves, desk])
    verdicts = [World(moods, seed, triggers=[DUNE]).run() for seed in range(5)]

    assert any("replayed" in line for verdict in verdicts for line in verdict.violations)


@saga("faulty", version=1, starts_on=LoanAsked)
async def faulty(ctx: Context, asked: LoanAsked) -> None:
    await ctx.do(PrintLabel(loan_id=asked.loan_id))
    raise KeyError("no such book")


def test_a_saga_that_parks_is_reported() -> None:
    """It is no violation to wait for an operator, but the report tells."""
    story = [DUNE, redelivered(), after("1s"), operator("release")]
    verdict = World(SagaApp(sagas=[faulty], effects=[desk]), 6, triggers=[story]).run()

    assert verdict.ok, verdict.report()
    (parked,) = verdict.parked
    assert parked.startswith(f"faulty/l-1: KeyError: 'no such book' ({__file__}:")
    assert "parked: faulty/l-1" in verdict.report()


def _all_hold(app: SagaApp, seeds: range, **options) -> Counter[str]:
    """What was seen in the worlds of *seeds*, in all of which everything holds."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        verdict = World(app, seed, **options).run()
        assert verdict.ok, verdict.report()
        seen += verdict.statistics
    return seen


def _line_of(text: str) -> int:
    lines = enumerate(Path(__file__).read_text().splitlines(), start=1)
    return next(
        number
        for number, line in lines
        if text in line and "_line_of" not in line and '"' + text[:5] not in line
    )
