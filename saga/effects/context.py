"""The second argument of a handler, beside its message."""

from __future__ import annotations

from typing import Any

from saga.core.identity import SagaId
from saga.core.values import value


@value(kw_only=True)
class EffectContext:
    """The message in hand, and the service's tables.

    Args:
        intent_id: the intent's id; for a fact, the message's.
        idempotency_key: the same for every attempt at the step; hand it on to systems that take
            one.
        saga_id: the saga that asks; for a fact the saga it is about, empty where it names none.
        key: the business key of the saga.
        attempt: 1 for the first.
        db: the service's own tables, inside the transaction in which the answer is kept: a write
            happens once, however often the message is delivered. `execute(sql, **params)` returns
            the number of rows touched, `fetch(sql, **params)` a list of dicts; parameters are
            written `:name`. Awaited in `async` handlers, plain calls in sync ones. `raw` is the
            driver's connection; its transaction must be left alone. An `async` handler that does
            not name `raw` itself, but calls something that does, awaits a statement before that.

    The first use of `db` takes the service's one write transaction until the handler ends, and
    other handlers wait for it. (An `async` handler that names `raw` takes it when it begins.) So
    touch `db` last, after everything else that takes time.
    """

    intent_id: str
    idempotency_key: str
    saga_id: SagaId
    key: str
    attempt: int
    # A `Database` in async handlers, a `ThreadDatabase` in sync ones; one annotation serves both.
    db: Any
