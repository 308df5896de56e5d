"""Drawings of ComfyUI's editor become the graphs that it would queue."""

import time

import pytest

from sdlora.draw.infotext.comfy import from_comfy
from sdlora.draw.infotext.comfy_graph import UnknownNode
from sdlora.draw.infotext.comfy_workflow import to_graph
from tests.draw.infotext import test_comfy


def node(number, kind, widgets=(), links=(), **more):
    """links: (name, number of the link, type) of each input."""
    return {
        "id": number,
        "type": kind,
        "mode": 0,
        "widgets_values": list(widgets),
        "inputs": [{"name": name, "link": link, "type": kind} for name, link, kind in links],
        **more,
    }


SAMPLER = [("model", 1, "MODEL"), ("positive", 2, "CONDITIONING"), ("negative", 3, "CONDITIONING"), ("latent_image", 4, "LATENT")]
NODES = [
    node(4, "CheckpointLoaderSimple", ["sea.safetensors"]),
    node(5, "EmptyLatentImage", [512, 768, 1]),
    node(6, "CLIPTextEncode", ["a red house /* or a boat */"], [("clip", 5, "CLIP")]),
    node(7, "CLIPTextEncode", ["fog"], [("clip", 6, "CLIP")]),
    node(3, "KSampler", [99, "randomize", 20, 6.5, "dpmpp_2m", "karras", 1], SAMPLER),
    node(8, "VAEDecode", [], [("samples", 7, "LATENT"), ("vae", 8, "VAE")]),
    node(9, "SaveImage", ["x"], [("images", 9, "IMAGE")]),
]
LINKS = [
    [1, 4, 0, 3, 0, "MODEL"],
    [2, 6, 0, 3, 1, "CONDITIONING"],
    [3, 7, 0, 3, 2, "CONDITIONING"],
    [4, 5, 0, 3, 3, "LATENT"],
    [5, 4, 1, 6, 0, "CLIP"],
    [6, 4, 1, 7, 0, "CLIP"],
    [7, 3, 0, 8, 0, "LATENT"],
    [8, 4, 2, 8, 1, "VAE"],
    [9, 8, 0, 9, 0, "IMAGE"],
]
FOUND = test_comfy.FOUND | {"prompt": "a red house", "seed": 99}


def changed(*nodes, links=()):
    kept = [one for one in NODES if one["id"] not in {new["id"] for new in nodes}]
    return {"nodes": [*kept, *nodes], "links": [*[link for link in LINKS if link[0] not in {new[0] for new in links}], *links]}


def test_the_drawing_says_the_same_as_the_graph():
    assert from_comfy(to_graph(changed())) == FOUND
    first_editors = node(3, "KSampler", [99, True, 20, 6.5, "dpmpp_2m", "karras", 1], SAMPLER)
    assert from_comfy(to_graph(changed(first_editors))) == FOUND


def test_widgets_that_are_inputs_and_primitives():
    linked = node(
        3, "KSampler", [0, "fixed", 1, 6.5, "dpmpp_2m", "karras", 1], [*SAMPLER, ("seed", 20, "INT"), ("steps", 21, "INT")]
    )
    found = from_comfy(
        to_graph(
            changed(
                linked,
                node(30, "PrimitiveNode", [77, "fixed"]),
                node(31, "PrimitiveInt", [33, "fixed"]),
                links=[[20, 30, 0, 3, 4, "INT"], [21, 31, 0, 3, 5, "INT"]],
            )
        )
    )
    assert (found["seed"], found["steps"]) == (77, 33)


def test_muted_and_bypassed_nodes_do_not_act():
    loader = node(
        10,
        "LoraLoader",
        ["ink.safetensors", 0.8, 0.5],
        [("model", 20, "MODEL"), ("clip", 21, "CLIP")],
        outputs=[{"type": "MODEL"}, {"type": "CLIP"}],
    )
    links = [[1, 10, 0, 3, 0, "MODEL"], [20, 4, 0, 10, 0, "MODEL"], [21, 4, 1, 10, 1, "CLIP"]]
    assert from_comfy(to_graph(changed(loader, links=links)))["loras"] == [
        {"name": "ink", "strength": 0.8, "hash": "", "text_strength": 0.5}
    ]
    assert from_comfy(to_graph(changed(loader | {"mode": 4}, links=links))) == FOUND
    assert "model" not in from_comfy(to_graph(changed(loader | {"mode": 2}, links=links)))


@pytest.mark.parametrize("shown", [None, [["-1", "text"], ["3", "seed"]]])
def test_subgraphs_are_unfolded(shown):
    inner_links = [
        {"id": link[0], "origin_id": link[1], "origin_slot": link[2], "target_id": link[3], "target_slot": link[4]}
        for link in LINKS[:-1]
    ] + [
        {"id": 9, "origin_id": 8, "origin_slot": 0, "target_id": -20, "target_slot": 0},
        {"id": 30, "origin_id": -10, "origin_slot": 0, "target_id": 6, "target_slot": 1},
    ]
    encoder = node(6, "CLIPTextEncode", ["what stood there before"], [("clip", 5, "CLIP"), ("text", 30, "STRING")])
    kind = {"id": "ef10-uuid", "nodes": [encoder if one["id"] == 6 else one for one in NODES[:-1]], "links": inner_links}
    outer = {
        "id": 50,
        "type": "ef10-uuid",
        "mode": 0,
        "widgets_values": ["a red house", 1],
        "properties": {"proxyWidgets": shown},
        "inputs": [{"name": "text", "type": "STRING", "widget": {"name": "text"}, "link": None}],
    }
    drawn = {"nodes": [outer, NODES[-1]], "links": [[9, 50, 0, 9, 0, "IMAGE"]], "definitions": {"subgraphs": [kind]}}
    graph = to_graph(drawn)
    assert "50:3" in graph and graph["9"]["inputs"]["images"] == ["50:8", 0]
    assert from_comfy(graph) == FOUND


def test_words_drawn_by_lot_are_not_guessed():
    with pytest.raises(UnknownNode, match="random choice"):
        to_graph(changed(node(6, "CLIPTextEncode", ["a {red|blue} house"], [("clip", 5, "CLIP")])))


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"nodes": 5, "links": 7},
        {"nodes": [1, {}, {"id": 1, "inputs": [1, {"link": 9}], "widgets_values": 5}], "links": [[1], {}, 3]},
        {
            "nodes": [{"id": 1, "type": "u", "inputs": [{"link": 1}]}],
            "links": [[1, 1, 0, 1, 0, "X"]],
            "definitions": {"subgraphs": [{"id": "u", "nodes": [{"id": 1, "type": "u"}], "links": []}]},
        },
        {
            "nodes": [{"id": 1, "type": "PrimitiveNode", "mode": 4, "inputs": [{"link": 1, "type": None}]}],
            "links": [[1, 1, 0, 1, 0, "X"]],
        },
    ],
)
def test_hostile_drawings_have_no_sampler(odd):
    with pytest.raises(UnknownNode):
        from_comfy(to_graph(odd))


def test_subgraphs_within_themselves_end():
    began = time.process_time()
    many = {"id": "u", "nodes": [{"id": step, "type": "u"} for step in range(300)], "links": []}
    circle = {
        "nodes": [{"id": 1, "type": "v", "inputs": [{"name": "x", "link": 1}]}, {"id": 2, "type": [], "inputs": [{"link": 1}]}],
        "links": [[1, 1, 0, 1, 0, "X"]],
        "definitions": {"subgraphs": [many, {"id": "v", "nodes": [], "links": [[5, -10, 0, -20, 0, "X"]]}]}}
    around = {"id": 1, "type": "a", "mode": 4, "outputs": [5], "inputs": [{"link": 1}]}
    bypassed = {"nodes": [around, {"id": 2, "inputs": [{"link": 1}]}], "links": [[1, 1, 0, 1, 0, "X"]]}
    for drawn in (circle, {**circle, "nodes": [{"id": 1, "type": "u"}]}, bypassed):
        with pytest.raises(UnknownNode):
            from_comfy(to_graph(drawn))
    assert time.process_time() - began < 5
