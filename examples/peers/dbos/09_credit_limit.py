"""DBOS: two orders race for what is left of a customer's credit.

python examples/peers/dbos/09_credit_limit.py
"""

from dbos import DBOS, DBOSConfig, SetWorkflowID, SQLAlchemyDatasource
from sqlalchemy import text

LIMIT = 100
CONFIG: DBOSConfig = {"name": "sales", "system_database_url": "sqlite:///sales.sqlite"}
customers = SQLAlchemyDatasource.create("sqlite:///customers.sqlite")


class Refused(Exception): ...


@DBOS.step()
def create_order(order_id: str) -> None: ...


@DBOS.step()
def reject_order(order_id: str) -> None: ...


@DBOS.step()
def approve_order(order_id: str) -> None: ...


@customers.transaction
def make_customers() -> None:
    db = customers.sql_session()
    db.execute(text("CREATE TABLE IF NOT EXISTS customers (name TEXT PRIMARY KEY, credit INT)"))
    new = "INSERT INTO customers VALUES ('ann', :limit) ON CONFLICT DO NOTHING"
    db.execute(text(new), {"limit": LIMIT})


@customers.transaction
def reserve_credit(customer: str, total: int) -> int:
    """Its result is kept in the transaction of its writes: they happen once."""
    db = customers.sql_session()
    take = "UPDATE customers SET credit = credit - :total WHERE name = :name AND credit >= :total"
    given = {"name": customer, "total": total}
    select = text("SELECT credit FROM customers WHERE name = :name")
    taken = db.execute(text(take + " RETURNING credit"), given).scalar()
    if taken is not None:
        return int(taken)
    left = db.execute(select, {"name": customer}).scalar()
    if left is None:
        raise Refused(f"{customer} is no customer")
    raise Refused(f"{total} are too much, {left} are left")


@DBOS.workflow()
def order(order_id: str, customer: str, total: int) -> str:
    create_order(order_id)
    try:
        left = reserve_credit(customer, total)
    except Refused:
        reject_order(order_id)
        raise
    approve_order(order_id)
    return f"approved: {total} of {LIMIT}, {left} are left"


def main() -> None:
    DBOS(config=CONFIG)
    DBOS.launch()
    make_customers()
    handles = []
    for order_id, customer in (("o-1", "ann"), ("o-2", "ann"), ("o-3", "nobody")):
        with SetWorkflowID(order_id):
            handles.append(DBOS.start_workflow(order, order_id, customer, 60))
    for handle in handles:
        try:
            print(handle.get_result())
        except Refused as error:
            print("rejected:", error)
    DBOS.destroy()


if __name__ == "__main__":
    main()
