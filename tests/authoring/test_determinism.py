"""What a saga's source does that no replay gives again is warned of, with file and line."""

# Each function does what a linter would not have either.
# ruff: noqa: A002, ASYNC210, ASYNC221, ASYNC230, ASYNC240, ASYNC251, C416, DTZ001, DTZ003
# ruff: noqa: DTZ005, DTZ011, FURB171, ICN001, PLW0603, PLW1510, PTH118, PTH123, RET504

import asyncio
import datetime as dates
import os
import random
import secrets
import socket
import subprocess
import threading
import time
import uuid
import warnings
from datetime import date, datetime
from os import environ, getenv
from pathlib import Path
from random import randint
from time import sleep

import pytest

from saga.authoring import Context, saga
from saga.errors import DeterminismWarning
from tests.toys import OrderPlaced, Ship, as_saga

counted = 0


def found(function):
    """Of each finding what it says the function does."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        as_saga(function)
    assert all(each.category is DeterminismWarning for each in caught)
    return [str(each.message).partition(": ")[2].partition(", which")[0] for each in caught]


async def _random(ctx, placed):
    random.random()


async def _randint(ctx, placed):
    randint(1, 6)


async def _choice_in_a_branch(ctx, placed):
    if placed.amount > 3:
        await ctx.do(Ship(order_id=random.choice(["a", "b"])))


async def _now(ctx, placed):
    datetime.now()


async def _utcnow_of_a_module(ctx, placed):
    dates.datetime.utcnow()


async def _today(ctx, placed):
    return date.today()


async def _time(ctx, placed):
    time.time()


async def _monotonic(ctx, placed):
    began = time.monotonic()
    return began


async def _sleep(ctx, placed):
    sleep(1)


async def _uuid(ctx, placed):
    await ctx.do(Ship(order_id=str(uuid.uuid4())))


async def _secret(ctx, placed):
    secrets.token_hex()


async def _environ(ctx, placed):
    return os.environ["REGION"]


async def _environ_by_name(ctx, placed):
    return environ.get("REGION")


async def _getenv(ctx, placed):
    return getenv("REGION")


async def _thread(ctx, placed):
    threading.Thread(target=print).start()


async def _socket(ctx, placed):
    socket.create_connection(("example.com", 80))


async def _process(ctx, placed):
    subprocess.run(["ls"])


async def _open(ctx, placed):
    with open("rates.json") as file:
        file.read()


async def _path(ctx, placed):
    Path("rates.json").read_text()


async def _asyncio(ctx, placed):
    await asyncio.sleep(1)


async def _requests(ctx, placed):
    import requests

    requests.get("https://example.com")


async def _httpx(ctx, placed):
    from httpx import AsyncClient

    AsyncClient()


async def _set(ctx, placed):
    for sku in {"a", placed.order_id}:
        await ctx.do(Ship(order_id=sku), id=sku)


async def _set_by_name(ctx, placed):
    skus = set(placed.order_id)
    return [sku for sku in skus]


async def _list_of_a_set(ctx, placed):
    return list({"a", "b"})


async def _hash(ctx, placed):
    return hash(placed.order_id)


async def _id(ctx, placed):
    return id(placed)


async def _global(ctx, placed):
    global counted
    counted += 1


def helper():
    """Of the same package: looked at, too."""
    return time.time()


async def _by_a_helper(ctx, placed):
    helper()


@pytest.mark.parametrize(
    ("function", "does"),
    [
        (_random, "it calls random.random()"),
        (_randint, "it calls random.Random()"),
        (_choice_in_a_branch, "it calls random.choice()"),
        (_now, "it calls datetime.datetime.now()"),
        (_utcnow_of_a_module, "it calls datetime.datetime.utcnow()"),
        (_today, "it calls datetime.date.today()"),
        (_time, "it calls time.time()"),
        (_monotonic, "it calls time.monotonic()"),
        (_sleep, "it calls time.sleep()"),
        (_uuid, "it calls uuid.uuid4()"),
        (_secret, "it calls secrets.token_hex()"),
        (_environ, "it reads os.environ"),
        (_environ_by_name, "it calls os.environ.get()"),
        (_getenv, "it calls os.getenv()"),
        (_thread, "it calls threading.Thread()"),
        (_socket, "it calls socket.create_connection()"),
        (_process, "it calls subprocess.run()"),
        (_open, "it calls open()"),
        (_path, "it calls pathlib.Path.read_text()"),
        (_asyncio, "it calls asyncio.sleep()"),
        (_requests, "it calls requests.get()"),
        (_httpx, "it calls httpx.AsyncClient()"),
        (_set, "it goes through a set"),
        (_set_by_name, "it goes through a set"),
        (_list_of_a_set, "it takes the order of a set, by list(…)"),
        (_hash, "it calls hash()"),
        (_id, "it calls id()"),
        (_global, "it changes counted of its module"),
        (_by_a_helper, "it calls time.time()"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_no_replay_gives_again_is_warned_of(function, does):
    assert does in found(function)


def test_a_warning_names_file_and_line_and_the_call_to_use_instead():
    line = _now.__code__.co_firstlineno + 1
    with pytest.warns(DeterminismWarning, match=r"use ctx\.now\(\)") as caught:
        as_saga(_now)
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)
    assert "saga 'order'" in str(caught[0].message)
    assert "# saga: allow" in str(caught[0].message)


def test_a_definition_knows_what_was_found():
    """So that tools can list it."""
    with pytest.warns(DeterminismWarning):
        definition = as_saga(_time)
    (only,) = definition.nondeterminism
    assert only.where == f"{__file__}:{_time.__code__.co_firstlineno + 1}"
    assert only.instead == "use ctx.now()"


async def _fine(ctx, placed):
    """All of this is the same in every replay."""
    random = ctx.random()
    time = ctx.now()
    skus = sorted({"a", "b"})
    hash_of = {"a": 1}.get("a")
    names = {name for name in skus if name in {"a"}}
    if "a" in names and len({1, 2}) == 2 and dates.timedelta(days=1):
        await ctx.sleep("1s")
    datetime(2026, 1, 1).isoformat()
    uuid.UUID(int=3)
    return random, time, hash_of, os.path.join("a", "b")


async def _allowed(ctx, placed):
    return time.time()  # saga: allow - only shown to people


async def _allowed_over_lines(ctx, placed):
    return random.choice(
        ["a", "b"],  # saga: allow
    )


@pytest.mark.parametrize("function", [_fine, _allowed, _allowed_over_lines])
def test_what_is_the_same_in_every_replay_is_no_finding(function):
    assert found(function) == []


def test_a_name_of_the_functions_own_is_not_a_module():
    async def shadowing(ctx, placed):
        async def inner(random, open):
            random.random()
            open("x")

        await inner(ctx, ctx)

    assert found(shadowing) == []


def test_rolled_back_is_looked_at_too():
    def rejected(trigger, report):
        return OrderPlaced(order_id=str(uuid.uuid4()))

    async def order(ctx: Context, placed):
        await ctx.do(Ship())

    with pytest.warns(DeterminismWarning, match="uuid4"):
        saga("order", version=1, starts_on=OrderPlaced, rolled_back=rejected)(order)
