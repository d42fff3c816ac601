"""DBOS: a subscription is charged once a month, and sleeps in between.

    python examples/peers/dbos/05_subscription.py

Nothing skips the time, so that a month is half a second here.
"""

from dbos import DBOS, DBOSConfig, SetWorkflowID

CONFIG: DBOSConfig = {"name": "magazine", "system_database_url": "sqlite:///magazine.sqlite"}
MONTH_S = 30 * 24 * 3600.0


@DBOS.step()
def charge(member: str, month: int) -> None:
    print(f"month {month}: charged")


@DBOS.workflow()
def subscription(member: str, months: int, month_s: float = MONTH_S) -> int:
    for month in range(1, months + 1):
        charge(member, month)
        DBOS.sleep(month_s)
    return months


def main() -> None:
    DBOS(config=CONFIG)
    DBOS.launch()
    with SetWorkflowID("subscription-ann"):
        print("the end:", subscription("ann", 3, 0.5))
    DBOS.destroy()


if __name__ == "__main__":
    main()
