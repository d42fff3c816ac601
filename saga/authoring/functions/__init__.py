"""Durable functions: a saga as an `async def`, rebuilt by running it again over its history."""

from saga.authoring.functions.context import Context
from saga.authoring.functions.definition import FunctionDefinition, saga

__all__ = ["Context", "FunctionDefinition", "saga"]
