"""The expressions of contract graphs: read once, checked against contracts, evaluated over JSON.

They are a small part of CEL. Reading refuses what is not of the grammar, with its place; evaluating
never fails and never takes long, whatever the data: docs/reference/expressions.md has both.
"""

from saga.authoring.graphs.expressions.evaluation import (
    RESULT_SIZE_MAX,
    STEPS_MAX,
    Evaluation,
    evaluate,
    measured,
)
from saga.authoring.graphs.expressions.parser import (
    CHARS_MAX,
    LEVELS_MAX,
    MACROS_MAX,
    parse,
    parse_template,
)
from saga.authoring.graphs.expressions.problems import Code, ExpressionError, Problem
from saga.authoring.graphs.expressions.tree import Node, Template, canonical, names

__all__ = (
    "CHARS_MAX",
    "LEVELS_MAX",
    "MACROS_MAX",
    "RESULT_SIZE_MAX",
    "STEPS_MAX",
    "Code",
    "Evaluation",
    "ExpressionError",
    "Node",
    "Problem",
    "Template",
    "canonical",
    "evaluate",
    "measured",
    "names",
    "parse",
    "parse_template",
)
