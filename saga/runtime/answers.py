"""Answers to updates: found in the history of their saga, and waited for.

A turn of this process wakes who waits; what other processes have answered is found by asking the
store now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from saga.contracts.json_text import schema_problem
from saga.core.events import UpdateReceived
from saga.core.history import History
from saga.core.identity import SagaId
from saga.core.intents import UPDATE_ENDED, UpdateAnswered
from saga.errors import CorruptHistory, MalformedMessage, SagaEnded, StoreUnavailable, UpdateRefused
from saga.ports import Catalogue, EventStore

POLL_S_MIN: Final = 0.05
POLL_S_MAX: Final = 1.0
POLL_FACTOR: Final = 1.5


def answer_in(history: History, update_id: str) -> UpdateAnswered | None:
    """The answer to an update; None where none was given since *history* begins."""
    for turn in history.recorded:
        for decided in turn.decided:
            if type(decided) is UpdateAnswered and decided.update == update_id:
                return decided
    return None


def asked_in(history: History, update_id: str) -> UpdateReceived | None:
    """What was asked under this id."""
    for turn in history.recorded:
        fact = turn.event.fact
        if type(fact) is UpdateReceived and fact.update == update_id:
            return fact
    return None


class AnswerWaiters:
    """Who waits for answers in this process, by the saga that was asked."""

    def __init__(self) -> None:
        self._news: dict[SagaId, list[asyncio.Event]] = {}

    def __bool__(self) -> bool:
        return bool(self._news)

    def wake(self, saga_ids: Iterable[SagaId] | None = None) -> None:
        """Have those look who wait for one of these sagas, which have taken a turn; None: all."""
        for saga_id in list(self._news) if saga_ids is None else saga_ids:
            for news in self._news.get(saga_id, ()):
                news.set()

    @contextmanager
    def waiting(self, saga_id: SagaId) -> Iterator[asyncio.Event]:
        news = asyncio.Event()
        self._news.setdefault(saga_id, []).append(news)
        try:
            yield news
        finally:
            self._news[saga_id].remove(news)
            if not self._news[saga_id]:
                del self._news[saga_id]


class AnswerSearch:
    """Looks for the answer to one update; of what was not changed it asks no history."""

    def __init__(
        self, store: EventStore, catalogue: Catalogue, saga_id: SagaId, asked: UpdateReceived
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._saga_id = saga_id
        self._asked = asked
        self._version = 0
        self._run_from = 1
        """The version with which the runs begin that were looked at before, too."""

    async def look(self) -> UpdateAnswered | None:
        """The answer, if the store has it.

        Raises:
            UpdateRefused: another update came under the same id before.
            CorruptHistory: the saga's history cannot be read.
            StoreUnavailable: the store cannot be asked.
        """
        for row in await self._catalogue.summaries([self._saga_id]):
            if row.version == self._version:
                continue
            history = await self._load()
            found = None if history is None else self._found_in(history)
            begins = 1 if history is None else history.recorded[0].version
            if found is None and begins != self._run_from:
                whole = await self._load(is_whole=True)
                found = None if whole is None else self._found_in(whole)
                self._run_from = begins
            self._version = row.version
            if found is not None:
                return found
        return None

    def _found_in(self, history: History) -> UpdateAnswered | None:
        asked, ours = asked_in(history, self._asked.update), self._asked
        if asked is not None and (asked.name, asked.payload) != (ours.name, ours.payload):
            message = f"{ours.update} is the id of another update, to {asked.name!r}, which stands"
            raise UpdateRefused("id_conflict", message)
        return answer_in(history, ours.update)

    async def _load(self, *, is_whole: bool = False) -> History | None:
        found = await self._store.load([self._saga_id], is_whole=is_whole)
        history = found.get(self._saga_id)
        if isinstance(history, CorruptHistory):
            raise history
        return history


async def wait_for_answer(
    search: AnswerSearch, news: asyncio.Event, check: Callable[[], None]
) -> UpdateAnswered:
    """The answer, once the store has it; *news* is set whenever this process may know more.

    Raises:
        What `AnswerSearch.look` does, but StoreUnavailable: it is asked again. What *check* raises.
    """
    poll_s = POLL_S_MIN
    while True:
        news.clear()
        check()
        with contextlib.suppress(StoreUnavailable):
            answered = await search.look()
            if answered is not None:
                return answered
        try:
            async with asyncio.timeout(poll_s):
                await news.wait()
        except TimeoutError:
            poll_s = min(poll_s * POLL_FACTOR, POLL_S_MAX)


def raise_refusal(saga_id: SagaId, answered: UpdateAnswered) -> None:
    """Raise what a refusal means to who has asked."""
    if answered.code == UPDATE_ENDED:
        raise SagaEnded(saga_id, answered.message or "")
    if answered.code is not None:
        raise UpdateRefused(answered.code, answered.message or "")


def read_answer(answered: UpdateAnswered, model: Any) -> Any:
    """An answer as JSON says it, or as *model*; MalformedMessage where it is none."""
    text = answered.answer or "null"
    if model is None:
        return orjson.loads(text)
    try:
        return TypeAdapter(model).validate_json(text)
    except ValidationError as error:
        problem = schema_problem(error)
        raise MalformedMessage(problem.code, f"the answer: {problem.message}") from error
