"""A basket as a state machine: it says what may happen now, and answers by its state.

    python examples/10_basket_machine.py

The table says what may follow what, and is checked against the states when the machine is defined.
A request with the id of an earlier one gets the same answer. `saga graph basket` draws it, and
`saga ls --where state=Open` finds the baskets in a state. It prints

    tea: {'total': 4}
    pot: {'total': 34}
    declined, and open again
    basket/b-1 completed (state=Paid)
      do    pay    refused, dropped
      do    pay-2  done
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from saga import (
    Acts,
    EffectContext,
    Effects,
    Event,
    Intent,
    Next,
    Refused,
    SagaApp,
    State,
    StepDone,
    StepFailed,
    Transitions,
    answer,
    do,
    machine,
)


class BasketTaken(Event, topic="shop.basket-taken", version=1, key="basket"):
    basket: str


class Pay(Intent[None], topic="shop.pay", version=1):
    total: int
    card: str


class Add(BaseModel):
    item: str
    price: int


class CheckOut(BaseModel):
    card: str


class Open(State):
    total: int = 0

    def handle(self, event: Add | CheckOut) -> Next[Open | Paying]:
        match event:
            case Add(price=price):
                total = self.total + price
                return Open(total=total), answer({"total": total})
            case CheckOut(card=card):
                return Paying(total=self.total, card=card), answer("paying")


class Paying(State):
    total: int
    card: str

    def enter(self) -> Acts:
        return do(Pay(total=self.total, card=self.card))

    def handle(self, event: StepDone | StepFailed) -> Next[Paid | Open]:
        match event:
            case StepDone():
                return Paid()
            case StepFailed():
                return Open(total=self.total)


class Paid(State): ...


BASKET: Transitions = {
    Open: {Add: Open, CheckOut: Paying},
    Paying: {StepDone: Paid, StepFailed: Open},
}


@machine(
    "basket",
    version=1,
    starts_on=BasketTaken,
    transitions=BASKET,
    updates={"add": Add, "check-out": CheckOut},
)
def basket(taken: BasketTaken) -> Next[Open]:
    return Open()


till = Effects("till")


@till.on(Pay)
async def pay(intent: Pay, ctx: EffectContext) -> None:
    if intent.card == "expired":
        raise Refused("the card has expired", code="card")


app = SagaApp(sagas=[basket], effects=[till])


async def main() -> None:
    async with app.service() as service:
        saga_id = await service.start(BasketTaken(basket="b-1"))
        for item, price in (("tea", 4), ("pot", 30)):
            added = Add(item=item, price=price)
            print(f"{item}:", await service.update(saga_id, "add", added, id=item))
        await service.update(saga_id, "check-out", CheckOut(card="expired"), id="first")
        await service.idle()  # until it is declined
        print("declined, and open again")
        await service.update(saga_id, "check-out", CheckOut(card="good"), id="second")
        await service.outcome(saga_id)
        print(await service.find(saga_id))


if __name__ == "__main__":
    asyncio.run(main())
