"""What is looked at of updates in a world: each is answered once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from saga.core.events import UpdateReceived
from saga.core.history import Entry
from saga.core.intents import UpdateAnswered


def check_updates(history: Sequence[Entry], *, has_ended: bool) -> Iterator[str]:
    """Each is answered once, by the saga's end at the latest."""
    is_answered: dict[str, bool] = {}
    for entry in history:
        match entry.body:
            case UpdateReceived(update=update):
                is_answered[update] = False
            case UpdateAnswered(update=update):
                if is_answered.get(update) is not False:
                    yield f"update {update} is answered twice, or was never asked"
                is_answered[update] = True
    for update, has_answer in is_answered.items():
        if has_ended and not has_answer:
            yield f"update {update} was never answered"
