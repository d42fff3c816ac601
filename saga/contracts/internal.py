"""The engine's own messages: the two replies that every domain has, and commands to sagas.

They are read leniently where a service in another language may leave something out, and strictly
where a wrong guess would do harm (a signal without a name, an abandoned saga without a reason).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from saga.contracts.contract import INTENT_DONE, INTENT_FAILED, Contract, Kind
from saga.contracts.models import ContractModel
from saga.core.events import CancelMode

TEXT_CHARS_MAX = 10_000
"""Of a reason, code or message: they end in histories and on screens."""


class IntentDone(ContractModel):
    """The reply to an `Intent[None]`: done, with nothing to add."""


class IntentFailed(ContractModel):
    """The reply of a service that did not do it.

    `refused` is final and nothing happened; `failed` is a failed attempt.
    """

    outcome: Literal["refused", "failed"]
    code: str | None = Field(default=None, max_length=TEXT_CHARS_MAX)
    message: str | None = Field(default=None, max_length=TEXT_CHARS_MAX)


class CommandAct(StrEnum):
    """What can be asked of a saga from outside."""

    SIGNAL = "signal"
    CANCEL = "cancel"
    RETRY = "retry"
    SKIP = "skip"
    COMPENSATE = "compensate"
    RELEASE = "release"
    ABANDON = "abandon"


class Command(ContractModel):
    """A signal, a cancel or an operator's act, for one saga.

    *command_id* is the sender's: the same command sent twice is done once. *name* and *payload*
    belong to signals, *mode* to cancels, *step* to acts about one step. *requested_at* is in
    microseconds UTC.
    """

    command_id: str = Field(min_length=1, max_length=200)
    act: CommandAct
    saga_id: str = Field(min_length=1, max_length=200)
    name: str | None = Field(default=None, min_length=1, max_length=200)
    payload: JsonValue = None
    mode: CancelMode = CancelMode.GRACEFUL
    step: str | None = Field(default=None, max_length=TEXT_CHARS_MAX)
    reason: str | None = Field(default=None, max_length=TEXT_CHARS_MAX)
    actor: str | None = Field(default=None, max_length=TEXT_CHARS_MAX)
    requested_at: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        if self.act is CommandAct.SIGNAL and self.name is None:
            raise ValueError("a signal needs a name")
        gives_up = self.act is CommandAct.ABANDON or self.mode is CancelMode.ABANDON
        if gives_up and not self.reason:
            raise ValueError("to abandon a saga needs a reason")
        return self


COMMAND = Contract(domain="saga", name="command", kind=Kind.CONTROL, version=1, model=Command)
"""`saga.ctl.command.v1`."""


def internal_replies(domain: str) -> tuple[Contract, Contract]:
    """The contracts of `intent-done` and `intent-failed` in *domain*."""
    return (
        Contract(domain=domain, name=INTENT_DONE, kind=Kind.EVENT, version=1, model=IntentDone),
        Contract(domain=domain, name=INTENT_FAILED, kind=Kind.EVENT, version=1, model=IntentFailed),
    )
