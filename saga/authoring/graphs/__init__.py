"""Sagas written as contract graphs: nodes in YAML, on the kernel that functions run on."""

from saga.authoring.graphs.definition import ContractGraph, GraphDefinition, contract
from saga.authoring.graphs.output import Output

__all__ = ("ContractGraph", "GraphDefinition", "Output", "contract")
