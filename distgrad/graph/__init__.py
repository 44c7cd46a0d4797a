"""The graph compiler: trace a function once, simplify what it does, run it as one operation."""

from distgrad.graph.control import cond, scan, while_loop
from distgrad.graph.function import Function, function
from distgrad.graph.nodes import Graph, Node

__all__ = ["Function", "Graph", "Node", "cond", "function", "scan", "while_loop"]
