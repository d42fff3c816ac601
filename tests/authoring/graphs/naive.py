"""A second reading of docs/reference/expressions.md: short, slow, without bounds."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import accumulate
from operator import add, mul, sub

import orjson

from saga.authoring.graphs.expressions.tree import (
    And,
    Call,
    Choice,
    Comparison,
    Constant,
    Field,
    Index,
    Items,
    Macro,
    Name,
    Negative,
    Not,
    Or,
    Product,
    Sum,
    Text,
    Whole,
)


def naive(tree, data):  # noqa: C901  # a case a node
    match tree:
        case Constant(value) | Whole(value) | Text(value):
            return value
        case Name(name):
            return data.get(name)
        case Items(items):
            return [naive(item, data) for item in items]
        case Field(of, name):
            return take(naive(of, data), name)
        case Index(of, index):
            return take(naive(of, data), naive(index, data))
        case Choice(condition, chosen, otherwise):
            return naive(chosen, data) if truth(condition, data) else naive(otherwise, data)
        case And(operands):
            return False not in [truth(operand, data) for operand in operands]
        case Or(operands):
            return True in [truth(operand, data) for operand in operands]
        case Not(operand):
            return not truth(operand, data)
        case Negative(operand):
            return reckon("*", -1, naive(operand, data))
        case Product(factors):
            *_, product = accumulate(
                (naive(each, data) for each in factors), lambda a, b: reckon("*", a, b)
            )
            return product if kind(product) == "number" else None
        case Sum(first, rest):
            total = naive(first, data)
            for sign, term in rest:
                total = reckon(sign, total, naive(term, data))
            return total
        case Comparison(left, operator, right):
            return compare(operator, naive(left, data), naive(right, data))
        case Call(function, argument):
            return call(function, naive(argument, data))
        case Macro(of, macro, variable, body):
            return over(macro, naive(of, data), lambda item: naive(body, {**data, variable: item}))


def naive_text(template, data):
    values = [part if isinstance(part, str) else naive(part, data) for part in template.parts]
    if template.only is not None:
        return values[0]
    return "".join(call("string", each) or "" for each in values)


def kind(value):
    if value is None or isinstance(value, bool):
        return str(value)
    return "number" if isinstance(value, int | float) else type(value).__name__


def take(of, index):
    try:
        if kind(of) == "dict" or (kind(of) == "list" and type(index) is int and index >= 0):
            return of[index]
    except (KeyError, IndexError, TypeError):
        pass
    return None


def truth(tree, data):
    return naive(tree, data) is True


def reckon(operator, one, other):
    if not kind(one) == kind(other) == "number":
        return None
    result = {"*": mul, "+": add, "-": sub}[operator](one, other)
    if type(result) is int:
        return result if -(2**63) <= result < 2**64 else None
    return result if math.isfinite(result) else None


def exact(value):
    """*value* in a form whose equality is that of the reference."""
    match kind(value):
        case "number":
            return ("number", Fraction(value))
        case "list":
            return ("list", *map(exact, value))
        case "dict":
            return ("dict", frozenset((name, exact(each)) for name, each in value.items()))
    return (kind(value), value)


def compare(operator, one, other):
    if operator == "in":
        if kind(other) == "list":
            return exact(one) in [exact(each) for each in other]
        return kind(one) == "str" and kind(other) in {"str", "dict"} and one in other
    if operator in {"==", "!="}:
        return (exact(one) == exact(other)) == (operator == "==")
    if kind(one) != kind(other) or kind(one) not in {"number", "str"}:
        return False
    a, b = exact(one)[1], exact(other)[1]
    return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[operator]


def call(function, value):
    items = value if kind(value) == "list" else []
    match function:
        case "has":
            return value is not None
        case "size":
            return len(value) if kind(value) in {"str", "list", "dict"} else None
        case "sum":
            *_, total = accumulate((0, *items), lambda a, b: reckon("+", a, b))
            return total if kind(value) == "list" else None
        case "min" | "max":
            if {kind(each) for each in items} not in ({"number"}, {"str"}):
                return None
            return {"min": min, "max": max}[function](items)
        case "string":
            if value is None or kind(value) == "str":
                return value
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def over(macro, items, body):
    if kind(items) != "list":
        return None if macro in {"map", "filter"} else False
    results = [body(item) for item in items]
    match macro:
        case "map":
            return results
        case "filter":
            return [item for item, result in zip(items, results, strict=True) if result is True]
        case "all":
            return all(result is True for result in results)
        case "exists":
            return any(result is True for result in results)
