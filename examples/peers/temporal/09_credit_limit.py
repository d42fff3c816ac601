"""Temporal: two orders race for what is left of a customer's credit.

temporal server start-dev
python examples/peers/temporal/09_credit_limit.py
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import Worker

LIMIT = 100
PATIENCE = timedelta(seconds=30)
FILE = "credit.sqlite"


def make_customers() -> None:
    with sqlite3.connect(FILE) as db:
        db.execute("CREATE TABLE IF NOT EXISTS customers (name TEXT PRIMARY KEY, credit INT)")
        db.execute("CREATE TABLE IF NOT EXISTS reserved (order_id TEXT PRIMARY KEY, credit INT)")
        db.execute("INSERT INTO customers VALUES ('ann', ?) ON CONFLICT DO NOTHING", [LIMIT])


@activity.defn
async def create_order(order_id: str) -> None: ...


@activity.defn
async def reject_order(order_id: str) -> None: ...


@activity.defn
async def approve_order(order_id: str) -> None: ...


@activity.defn
async def reserve_credit(order_id: str, customer: str, total: int) -> int:
    """Once for each order, however often it is tried: that is for the activity to see to."""
    with sqlite3.connect(FILE) as db:
        db.execute("BEGIN IMMEDIATE")
        done = db.execute("SELECT credit FROM reserved WHERE order_id = ?", [order_id]).fetchone()
        if done is not None:
            return int(done[0])
        found = db.execute("SELECT credit FROM customers WHERE name = ?", [customer]).fetchone()
        if found is None:
            raise ApplicationError(f"{customer} is no customer", non_retryable=True)
        if found[0] < total:
            refusal = f"{total} are too much, {found[0]} are left"
            raise ApplicationError(refusal, non_retryable=True)
        left = int(found[0]) - total
        db.execute("UPDATE customers SET credit = ? WHERE name = ?", [left, customer])
        db.execute("INSERT INTO reserved VALUES (?, ?)", [order_id, left])
        return left


@workflow.defn
class Order:
    @workflow.run
    async def run(self, order_id: str, customer: str, total: int) -> str:
        await workflow.execute_activity(create_order, order_id, start_to_close_timeout=PATIENCE)
        try:
            left = await workflow.execute_activity(
                reserve_credit, args=[order_id, customer, total], start_to_close_timeout=PATIENCE
            )
        except ActivityError:
            await workflow.execute_activity(reject_order, order_id, start_to_close_timeout=PATIENCE)
            raise
        await workflow.execute_activity(approve_order, order_id, start_to_close_timeout=PATIENCE)
        return f"approved: {total} of {LIMIT}, {left} are left"


async def main() -> None:
    make_customers()
    client = await Client.connect("localhost:7233")
    activities: Sequence[Callable[..., Any]] = [
        create_order,
        reject_order,
        approve_order,
        reserve_credit,
    ]
    async with Worker(client, task_queue="sales", workflows=[Order], activities=activities):
        orders = [("o-1", "ann"), ("o-2", "ann"), ("o-3", "nobody")]
        handles = [
            await client.start_workflow(
                Order.run, args=[order_id, customer, 60], id=order_id, task_queue="sales"
            )
            for order_id, customer in orders
        ]
        for handle in handles:
            try:
                print(await handle.result())
            except WorkflowFailureError as error:
                print("rejected:", error.cause)


if __name__ == "__main__":
    asyncio.run(main())
