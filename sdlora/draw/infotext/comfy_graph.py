"""The nodes of a ComfyUI graph, and the way from one to the next: through links, reroutes, switches, pipes and primitives.

Knows nothing about settings or files. A graph is what ComfyUI queues (`prompt`, "API format"):
{id: {"class_type", "inputs"}}, an input is a value or a link [id, output].
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from sdlora.draw.infotext.values import as_number, is_number

MAX_NODES, MAX_DEPTH, MAX_STEPS = 3000, 60, 20_000
TOO_LARGE = "its graph is too large to be followed"
SEED = ("seed", "noise_seed")
NUMBERS = ("value", "int", "float", "number", "Number", "Value", "")
PIPES = re.compile(r"pipe|ctx|context|guider|^any|^$|script|tuple", re.I)  # inputs that carry everything on
COMPUTES = re.compile(r"math|expression|operat|calc|random|evaluat|arithmetic|multipl|divi|subtract|clamp", re.I)


class UnknownNode(ValueError):
    """The prompt of a picture, or its sampler, cannot be found in its graph: the text says why."""


def is_graph(fields: dict[str, Any]) -> bool:
    """Return whether a JSON object is a graph that ComfyUI queues."""
    return any(isinstance(node, dict) and "class_type" in node for node in fields.values())


def is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and isinstance(value[1], int)


def reached(key: str, following: Callable[[str], list[str]]) -> list[str]:
    """Return the node and all that can be reached from it, the nearest first."""
    found, seen = [key], {key}
    for near in found:
        for each in following(near):
            if each not in seen:
                seen.add(each)
                found.append(each)
    return found


class Node(NamedTuple):
    type: str
    inputs: dict[str, Any]


class Graph:
    """The nodes of one picture, and `remarks`: what they do that sdlora does not."""

    def __init__(self, graph: dict[str, Any]) -> None:
        self.nodes = {key: Node(str(node.get("class_type")), node["inputs"]) for key, node in list(graph.items())[:MAX_NODES]
                      if isinstance(node, dict) and isinstance(node.get("inputs"), dict)}
        self.remarks: dict[str, str] = {}
        self.steps = 0

    def node(self, link: Any) -> str:
        """Return the id of the node at a link, past reroutes and switches; "" for what is no link. Raises UnknownNode."""
        return self.end(link)[0]

    def end(self, link: Any) -> tuple[str, int]:
        """Return the id of the node at a link, past reroutes and switches, and which of its outputs; ("", 0) for no link."""
        while is_link(link) and str(link[0]) in self.nodes:
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise UnknownNode(TOO_LARGE)
            key = str(link[0])
            name, inputs = self.nodes[key]
            select = self.plain(inputs.get("select", inputs.get("index"))) if "switch" in name.lower() else None
            if name == "ComfySwitchNode":
                link = inputs.get("on_false" if self.plain(inputs.get("switch")) is False else "on_true")
            elif is_number(select):
                link = next((inputs[given] for given in (f"input{select}", f"input_{select}") if given in inputs), None)
            elif "reroute" in name.lower() or name.startswith("Any Switch"):
                link = next((value for value in inputs.values() if is_link(value)), None)
            else:
                return key, link[1]
        return "", 0

    def plain(self, given: Any) -> Any:
        """Return a value, or that of the primitive node it is linked to."""
        if not is_link(given):
            return given
        key = self.node(given)
        return self.nodes[key].inputs.get("value") if key else None

    def upstream(self, key: str) -> list[str]:
        """Return the node and all that it is made from, nearest first."""
        return reached(key, lambda near: [str(link[0]) for link in self.nodes[near].inputs.values()
                                          if is_link(link) and str(link[0]) in self.nodes])

    def chain(self, key: str, names: tuple[str, ...]) -> list[str]:
        """Return the node, the one at the first of these inputs, and so on."""
        keys = [key]
        while len(keys) < MAX_DEPTH:
            following = next((key for name in names if (key := self.node(self.held(keys[-1], name)))), "")
            if not following or following in keys:
                break
            keys.append(following)
        return keys

    def held(self, key: str, name: str, depth: int = 0) -> Any:
        """Return an input of a node, or of the pipe or guider that it is given."""
        inputs = self.nodes[key].inputs if key else {}
        if name in inputs or depth > MAX_DEPTH:
            return inputs.get(name)
        for given, link in inputs.items():
            if is_link(link) and PIPES.search(given) and (found := self.held_at(link, name, depth + 1)) is not None:
                return found
        return None

    def held_at(self, link: Any, name: str, depth: int = 0) -> Any:
        return self.held(self.node(link), name, depth)

    def number(self, given: Any, name: str, depth: int = 0) -> Any:
        """Return a number, also through the nodes that hold one; None where it is computed."""
        if not is_link(given):
            return as_number(given, float if name in ("cfg", "denoise", "strength") else int)
        key = self.node(given)
        inputs = self.nodes[key].inputs if key else {}
        computed = bool(key) and len(inputs) > 1 and COMPUTES.search(self.nodes[key].type)
        for candidate in (name, *(SEED if name in SEED else ()), *(() if computed else NUMBERS)):
            given = inputs.get(candidate) if candidate in NUMBERS else self.held(key, candidate)
            value = self.number(given, name, depth + 1) if given is not None and depth < MAX_DEPTH else None
            if value is not None:
                return value
        if depth == 0 and key:
            self.remarks[name] = f"comes from {self.nodes[key].type}"
        return None

    def text_value(self, given: Any, *names: str) -> str:
        """Return a text such as a sampler's name, also of a node that has it under one of `names`; "" where it is computed."""
        if not is_link(given):
            return given if isinstance(given, str) else ""
        key = self.node(given)
        found = next((value for name in ("value", *names) if isinstance(value := self.held(key, name), str)), "")
        if key and names and not found:
            self.remarks[names[0]] = f"comes from {self.nodes[key].type}"
        return found
