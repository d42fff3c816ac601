"""The expressions of contract graphs: read once, checked against contracts, evaluated over JSON.

They are a small part of CEL. Reading refuses what is not of the grammar, with its place; evaluating
never fails and never takes long, whatever the data: docs/reference/expressions.md has both.
"""

from saga.authoring.graphs.expressions.checking import Checked, Scope, Unavailable, check, fits
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
from saga.authoring.graphs.expressions.types import (
    ANY,
    BOOL,
    FLOAT,
    INT,
    LIST,
    NULL,
    TEXT,
    Kind,
    Type,
    list_of,
    nothing,
    record,
    type_of_model,
    type_of_schema,
)

__all__ = (
    "ANY",
    "BOOL",
    "CHARS_MAX",
    "FLOAT",
    "INT",
    "LEVELS_MAX",
    "LIST",
    "MACROS_MAX",
    "NULL",
    "RESULT_SIZE_MAX",
    "STEPS_MAX",
    "TEXT",
    "Checked",
    "Code",
    "Evaluation",
    "ExpressionError",
    "Kind",
    "Node",
    "Problem",
    "Scope",
    "Template",
    "Type",
    "Unavailable",
    "canonical",
    "check",
    "evaluate",
    "fits",
    "list_of",
    "measured",
    "names",
    "nothing",
    "parse",
    "parse_template",
    "record",
    "type_of_model",
    "type_of_schema",
)
