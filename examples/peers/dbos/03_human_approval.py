"""DBOS: a person decides, and who does not answer in time is passed over.

python examples/peers/dbos/03_human_approval.py
"""

from dbos import DBOS, DBOSConfig, SetWorkflowID

CONFIG: DBOSConfig = {"name": "office", "system_database_url": "sqlite:///office.sqlite"}


class Rejected(Exception): ...


@DBOS.step()
def ask(expense: str, who: str) -> None:
    """Would send a mail."""


@DBOS.workflow()
def claim(expense: str, amount: int, patience: dict[str, float]) -> str:
    for who, seconds in patience.items():
        ask(expense, who)
        granted = DBOS.recv(topic=who, timeout_seconds=seconds)
        if granted is None:
            continue
        if not granted:
            raise Rejected(f"{who} has said no")
        return f"{amount} granted by {who}"
    raise Rejected("nobody has answered")


def main() -> None:
    claims = [
        ("e-1", 80, {"ann": 172_800.0, "board": 604_800.0}, "ann"),
        ("e-2", 900, {"ann": 0.5, "board": 604_800.0}, "board"),
        ("e-3", 700, {"ann": 0.5, "board": 0.5}, None),
    ]
    DBOS(config=CONFIG)
    DBOS.launch()
    for expense, amount, patience, who in claims:
        with SetWorkflowID(f"expense-{expense}"):
            handle = DBOS.start_workflow(claim, expense, amount, patience)
        if who is not None:
            DBOS.send(handle.workflow_id, True, topic=who)
        try:
            print(expense, handle.get_result())
        except Rejected as error:
            print(expense, "rejected:", error)
    DBOS.destroy()


if __name__ == "__main__":
    main()
