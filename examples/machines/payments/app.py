"""A runtime that drives payments and decides nothing: it asks a running machine, and is answered.

`PaymentRuntime` loads, steps, saves and executes by one call of the service; what the answer is,
the state says.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Literal, NewType

from pydantic import BaseModel, ConfigDict

from saga import (
    Acts,
    EffectContext,
    Effects,
    Event,
    Intent,
    Next,
    SagaApp,
    Service,
    State,
    Transitions,
    answer,
    do,
    machine,
)

PaymentId = NewType("PaymentId", str)
RISKY = 80


class ResultKind(StrEnum):
    NOT_FOUND = "not_found"
    PROCESSED = "processed"
    VERIFICATION_REQUIRED = "verification_required"


class VerificationReason(StrEnum):
    RISK = "risk"


class PaymentNotFound(BaseModel):
    model_config = ConfigDict(frozen=True)
    kind: Literal[ResultKind.NOT_FOUND] = ResultKind.NOT_FOUND
    payment_id: PaymentId


class PaymentProcessed(BaseModel):
    model_config = ConfigDict(frozen=True)
    kind: Literal[ResultKind.PROCESSED] = ResultKind.PROCESSED
    payment_id: PaymentId


class VerificationRequired(BaseModel):
    model_config = ConfigDict(frozen=True)
    kind: Literal[ResultKind.VERIFICATION_REQUIRED] = ResultKind.VERIFICATION_REQUIRED
    reason: VerificationReason


ProcessPaymentResult = PaymentNotFound | PaymentProcessed | VerificationRequired


class PaymentAuthorised(Event, topic="payments.payment-authorised", version=1, key="payment_id"):
    payment_id: PaymentId
    risk: int = 0


class Captured(Event, topic="payments.captured", version=1):
    receipt: str


class Capture(Intent[Captured], topic="payments.capture", version=1):
    payment_id: PaymentId


class PaymentSettled(Event, topic="payments.payment-settled", version=1):
    payment_id: PaymentId
    receipt: str


class PaymentVoided(Event, topic="payments.payment-voided", version=1):
    payment_id: PaymentId
    reason: str


class ProcessPayment(BaseModel):
    request: str
    """Names it: the same request gets the same answer, however often it is sent."""


class Verified(BaseModel):
    by: str


class Authorised(State):
    payment: PaymentAuthorised

    def handle(self, event: ProcessPayment) -> Next[Capturing | Verifying]:
        if self.payment.risk > RISKY:
            required = VerificationRequired(reason=VerificationReason.RISK)
            return Verifying(payment=self.payment), answer(required)
        processed = PaymentProcessed(payment_id=self.payment.payment_id)
        return Capturing(payment=self.payment), answer(processed)


class Verifying(State, timeout="1d"):
    payment: PaymentAuthorised

    def handle(self, event: Verified | ProcessPayment) -> Next[Verifying | Capturing]:
        match event:
            case Verified():
                return Capturing(payment=self.payment)
            case ProcessPayment():
                return self, answer(VerificationRequired(reason=VerificationReason.RISK))


class Capturing(State):
    payment: PaymentAuthorised

    def enter(self) -> Acts:
        return do(Capture(payment_id=self.payment.payment_id), kind="pivot")

    def handle(self, event: Captured) -> Next[Settled]:
        settled = PaymentSettled(payment_id=self.payment.payment_id, receipt=event.receipt)
        return Settled(), settled


class Settled(State): ...


PAYMENT: Transitions = {
    Authorised: {ProcessPayment: (Capturing, Verifying)},
    Verifying: {Verified: Capturing, ProcessPayment: Verifying},
    Capturing: {Captured: Settled},
}


@machine(
    "payment",
    version=1,
    starts_on=PaymentAuthorised,
    transitions=PAYMENT,
    signals={"verified": Verified},
    updates={"process": ProcessPayment},
    rolled_back=PaymentVoided,
)
def payment(authorised: PaymentAuthorised) -> Next[Authorised]:
    return Authorised(payment=authorised)


class PaymentRuntime:
    """Load, step, save, execute: all of it is the service's. No business logic is here."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def run(self, payment_id: PaymentId, event: ProcessPayment) -> ProcessPaymentResult:
        if await self.service.find(f"payment/{payment_id}") is None:
            return PaymentNotFound(payment_id=payment_id)
        result: ProcessPaymentResult = await self.service.update(
            f"payment/{payment_id}",
            "process",
            event,
            answer=ProcessPaymentResult,
            id=f"{payment_id}-{event.request}",
        )
        return result


bank = Effects("bank")


@bank.on(Capture)
async def capture(intent: Capture, ctx: EffectContext) -> Captured:
    return Captured(receipt=f"r-{intent.payment_id}")


app = SagaApp(sagas=[payment], effects=[bank])


async def main() -> None:
    async with app.service() as service:
        runtime = PaymentRuntime(service)
        await service.start(PaymentAuthorised(payment_id=PaymentId("p-1")))
        await service.start(PaymentAuthorised(payment_id=PaymentId("p-2"), risk=90))
        await service.idle()  # until both have begun
        for id in (PaymentId("p-1"), PaymentId("p-2"), PaymentId("p-3")):
            match await runtime.run(id, ProcessPayment(request="1")):
                case PaymentProcessed():
                    print(id, "processed")
                case VerificationRequired(reason=reason):
                    print(id, "to be verified:", reason.value)
                case PaymentNotFound():
                    print(id, "not found")
        await service.signal("payment/p-2", "verified", Verified(by="ann"))
        for id in (PaymentId("p-1"), PaymentId("p-2")):
            outcome = await service.outcome(f"payment/{id}", timeout=60)
            print(id, outcome.status.value, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
