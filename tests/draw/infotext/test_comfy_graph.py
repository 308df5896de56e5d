"""The way through a graph: links, reroutes, switches, pipes and the nodes that hold a number."""

import pytest

from sdlora.draw.infotext.comfy_graph import Graph, UnknownNode


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def test_a_link_leads_past_reroutes_and_switches():
    graph = Graph({"1": node("Load"), "2": node("Reroute", value=["1", 3]), "3": node("Other"),
                   "4": node("ComfySwitchNode", switch=False, on_false=["2", 0], on_true=["3", 0]),
                   "5": node("Switch", select=["6", 0], input1=["3", 0], input2=["4", 0]), "6": node("PrimitiveInt", value=2)})
    assert graph.end(["5", 0]) == ("1", 3) and graph.node(["7", 0]) == graph.node("text") == ""


def test_a_circle_of_reroutes_ends():
    with pytest.raises(UnknownNode, match="too large"):
        Graph({"1": node("Reroute", value=["2", 0]), "2": node("Reroute", value=["1", 0])}).node(["1", 0])


def test_what_a_node_is_made_from_nearest_first():
    graph = Graph({"1": node("A", x=["2", 0], y=["3", 0]), "2": node("B", x=["4", 0]), "3": node("C", x=["1", 0]),
                   "4": node("D")})
    assert graph.upstream("1") == ["1", "2", "3", "4"] and graph.upstream("4") == ["4"]


def test_values_come_through_pipes_and_primitives_and_computed_ones_are_named():
    graph = Graph({"1": node("K", basic_pipe=["2", 0]), "2": node("Pipe", cfg=["3", 0], seed=["4", 0], name=["5", 0]),
                   "3": node("PrimitiveFloat", value=7.5), "4": node("MathExpression", a=1, value=2),
                   "5": node("Text", value="euler")})
    assert graph.number(graph.held("1", "cfg"), "cfg") == 7.5
    assert graph.number(graph.held("1", "seed"), "seed") is None and graph.remarks == {"seed": "comes from MathExpression"}
    assert graph.text_value(graph.held("1", "name")) == "euler"
