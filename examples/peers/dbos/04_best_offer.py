"""DBOS: several suppliers at once, the first two who answer count, the cheaper one wins.

python examples/peers/dbos/04_best_offer.py
"""

from dbos import DBOS, DBOSConfig, SetWorkflowID, WorkflowHandle

CONFIG: DBOSConfig = {"name": "desks", "system_database_url": "sqlite:///desks.sqlite"}
PRICES = {"acme": 40, "bolt": 30}


class NoOffer(Exception): ...


@DBOS.step()
def ask(item: str, supplier: str) -> int | None:
    if supplier == "crow":
        raise NoOffer("sold out")
    return PRICES.get(supplier)


@DBOS.workflow()
def hold_offer(item: str, supplier: str) -> int:
    """A child workflow, as only those can be waited for side by side and cancelled."""
    while (price := ask(item, supplier)) is None:
        DBOS.sleep(0.5)
    return price


@DBOS.step()
def decline(item: str, supplier: str) -> None: ...


@DBOS.step()
def buy(item: str, supplier: str, price: int) -> None: ...


@DBOS.workflow()
def purchase(item: str, suppliers: list[str]) -> str:
    asked: dict[str, WorkflowHandle[int]] = {
        supplier: DBOS.start_workflow(hold_offer, item, supplier) for supplier in suppliers
    }
    waiting = {handle.workflow_id: supplier for supplier, handle in asked.items()}
    offers: dict[str, int] = {}
    try:
        while len(offers) < 2:
            if len(offers) + len(waiting) < 2:
                raise NoOffer("too few offers")
            first = DBOS.wait_first([asked[supplier] for supplier in waiting.values()])
            supplier = waiting.pop(first.workflow_id)
            try:
                offers[supplier] = first.get_result()
            except NoOffer:
                continue
        best = min(offers, key=lambda supplier: offers[supplier])
        buy(item, best, offers[best])
    except Exception:
        give_up(item, asked, list(asked))
        raise
    give_up(item, asked, [supplier for supplier in asked if supplier != best])
    return f"bought from {best} for {offers[best]}"


def give_up(item: str, asked: dict[str, WorkflowHandle[int]], suppliers: list[str]) -> None:
    """Cancel what is under way, and decline what was or may have been held."""
    for supplier in suppliers:
        DBOS.cancel_workflow(asked[supplier].workflow_id)
        decline(item, supplier)


def main() -> None:
    DBOS(config=CONFIG)
    DBOS.launch()
    with SetWorkflowID("purchase-desk"):
        print("desk:", purchase("desk", ["acme", "bolt", "crow", "dusk"]))
    DBOS.destroy()


if __name__ == "__main__":
    main()
