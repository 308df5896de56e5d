"""A `workflow` of ComfyUI's editor -> the graph that it would queue, for `comfy.py`: links, widgets, subgraphs.

Knows nothing about files or settings. Format: ComfyUI_frontend's workflow schema 0.4 and 1 (src/platform/workflow/validation):
nodes with "inputs" (links by number) and "widgets_values" (values by place, for which WIDGETS has the names).
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from sdlora.draw.infotext.comfy_graph import UnknownNode
from sdlora.draw.infotext.values import as_dict, dicts_in, list_or_empty

COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)  # the editor takes them out of every prompt when it queues
RANDOM_CHOICE = re.compile(r"(?<!\\)\{[^{}]*\|[^{}]*\}")
MAX_UNFOLDED, MAX_LINKS, MAX_DEPTH = 200, 20_000, 100
SEEDED = ("fixed", "randomize", "increment", "decrement")  # what the editor puts behind a seed; true and false at first
SIZE = ("width", "height", "batch_size")
WIDGETS = {  # nodes.py and comfy_extras/ of ComfyUI; what stands behind a seed is taken out first
    "KSampler": ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": ("add_noise", "noise_seed", "steps", "cfg", "sampler_name", "scheduler", "start_at_step", "end_at_step",
                         "return_with_leftover_noise"),
    "SamplerCustom": ("add_noise", "noise_seed", "cfg"), "RandomNoise": ("noise_seed",), "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"), "KarrasScheduler": ("steps",), "ExponentialScheduler": ("steps",),
    "SDTurboScheduler": ("steps", "denoise"), "CFGGuider": ("cfg",), "FluxGuidance": ("guidance",),
    "CLIPTextEncode": ("text",), "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "CLIPTextEncodeSD3": ("clip_l", "clip_g", "t5xxl", "empty_padding"),
    "CLIPTextEncodeSDXL": ("width", "height", "crop_w", "crop_h", "target_width", "target_height", "text_g", "text_l"),
    "CheckpointLoaderSimple": ("ckpt_name",), "UNETLoader": ("unet_name", "weight_dtype"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"), "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "EmptyLatentImage": SIZE, "EmptySD3LatentImage": SIZE, "EmptyFlux2LatentImage": SIZE, "EmptyHunyuanLatentVideo": SIZE[:2],
    "StableCascade_EmptyLatentImage": ("width", "height", "compression", "batch_size"), "unCLIPCheckpointLoader": ("ckpt_name",),
    "Flux2Scheduler": ("steps", "width", "height"), "TextEncodeQwenImageEdit": ("prompt",),
    "TextEncodeQwenImageEditPlus": ("prompt",),
    "StringConcatenate": ("string_a", "string_b", "delimiter"), "LoadImage": ("image",),
    **{f"Primitive{kind}": ("value",) for kind in ("Int", "Float", "String", "StringMultiline", "Boolean")},
}
MUTED, BYPASSED = 2, 4  # LGraphEventMode
Origin = Callable[[int, int], Any]


def to_graph(workflow: dict[str, Any]) -> dict[str, Any]:
    """Return {id: {"class_type", "inputs"}} as ComfyUI queues it; inputs that cannot be known are left out.

    Subgraphs are unfolded, muted nodes left out, bypassed ones skipped. {} for what is no workflow. Raises UnknownNode for a
    prompt that was a random choice.
    """
    kinds = {str(kind.get("id")): kind for kind in dicts_in(as_dict(workflow.get("definitions")).get("subgraphs"))}
    return dict(Level(workflow, kinds, "", lambda slot, depth: None).graph())


class Level:
    """The nodes and links of a workflow, or of a subgraph in it; `outside`: what comes in at one of its own inputs."""

    def __init__(self, level: dict[str, Any], kinds: dict[str, dict], prefix: str, outside: Origin,
                 levels: "list[Level] | None" = None) -> None:
        self.nodes = {str(node.get("id")): node for node in dicts_in(level.get("nodes"))}
        self.links = dict(filter(None, map(ends_of, list_or_empty(level.get("links"))[:MAX_LINKS])))
        self.kinds, self.prefix, self.outside = kinds, prefix, outside
        self.unfolded: dict[str, Level] = {}
        self.levels = levels if levels is not None else []  # all that were unfolded, here and elsewhere

    def graph(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, node in self.nodes.items():
            if node.get("mode") in (MUTED, BYPASSED):
                continue
            if inner := self.inner(key):
                yield from inner.graph()
                continue
            inputs = widgets_of(node)
            for given in dicts_in(node.get("inputs")):
                value = self.at(given.get("link"))
                if value is not None:
                    inputs[str(given.get("name"))] = value
            yield self.prefix + key, {"class_type": str(node.get("type")), "inputs": inputs}

    def inner(self, key: str) -> "Level | None":
        """Return what a node unfolds to, None for one that is no subgraph."""
        kind = self.kinds.get(str(self.nodes[key].get("type")))
        if key not in self.unfolded and kind is not None and len(self.levels) < MAX_UNFOLDED:
            self.unfolded[key] = unfolded = self.unfold(key, kind)
            self.levels.append(unfolded)
        return self.unfolded.get(key)

    def unfold(self, key: str, kind: dict[str, Any]) -> "Level":
        node = self.nodes[key]
        inputs, proxies = dicts_in(node.get("inputs")), as_dict(node.get("properties")).get("proxyWidgets")
        names = [str(given.get("name")) for given in inputs if given.get("widget")] if not isinstance(proxies, list) else [
            str(pair[1]) if str(pair[0]) == "-1" else "" for pair in proxies if isinstance(pair, list) and len(pair) > 1]
        own = dict(zip(names, list_or_empty(node.get("widgets_values")), strict=False))

        def outside(slot: int, depth: int) -> Any:
            if not 0 <= slot < len(inputs):
                return None
            value = self.at(inputs[slot].get("link"), depth)
            return own.get(str(inputs[slot].get("name"))) if value is None else value
        return Level(kind, self.kinds, f"{self.prefix}{key}:", outside, self.levels)

    def at(self, number: object, depth: int = 0) -> Any:
        """Return where a link comes from, [id, output], or its value; None for no link and for one that comes from nowhere."""
        if not isinstance(number, int) or number not in self.links or depth > MAX_DEPTH:
            return None
        key, slot = self.links[number][:2]
        if key == "-10":  # a subgraph's own input
            return self.outside(slot, depth + 1)
        node = self.nodes.get(key)
        if node is None or node.get("mode") == MUTED:
            return None
        if node.get("mode") == BYPASSED:
            outputs = list_or_empty(node.get("outputs"))
            kind = as_dict(outputs[slot]).get("type") if 0 <= slot < len(outputs) else None
            same = next((given.get("link") for given in dicts_in(node.get("inputs")) if given.get("type") == kind), None)
            return self.at(same, depth + 1)
        if node.get("type") == "PrimitiveNode":
            return next(iter(list_or_empty(node.get("widgets_values"))), None)
        if inner := self.inner(key):
            leaving = next((link for link, ends in inner.links.items() if ends[2:] == ("-20", slot)), None)
            return inner.at(leaving, depth + 1)
        return [self.prefix + key, slot]


def ends_of(link: Any) -> tuple[int, tuple[str, int, str, int]] | None:
    """Return (number, (from node, from output, to node, to input)) of [number, from, output, to, input, type] or an object."""
    if isinstance(link, dict):
        link = [link.get(name) for name in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
    if not isinstance(link, list) or len(link) < 5 or not all(isinstance(link[place], int) for place in (0, 2, 4)):
        return None
    return link[0], (str(link[1]), link[2], str(link[3]), link[4])


def widgets_of(node: dict[str, Any]) -> dict[str, Any]:
    """Return the values in a node under the names of its inputs, as far as these are known."""
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return dict(values)
    if not isinstance(values, list):
        return {}
    stacked: dict[str, Any] = {f"lora_{place}": value for place, value in enumerate(values) if "lora" in as_dict(value)}
    if stacked:  # rgthree's Power Lora Loader
        return stacked
    names = WIDGETS.get(str(node.get("type"))) or [
        str(given.get("name")) for given in dicts_in(node.get("inputs")) if given.get("widget")]
    own = [value for place, value in enumerate(values)
           if not (place and is_whole(values[place - 1]) and (value is True or value is False or value in SEEDED))]
    if str(node.get("type")) not in WIDGETS and len(names) != len(own):
        return {}
    found = dict(zip(names, own, strict=False))
    if isinstance(text := found.get("text"), str):
        if RANDOM_CHOICE.search(text):
            raise UnknownNode("its prompt was a random choice of {one|another}, and the words are not in the file")
        found["text"] = COMMENT.sub("", text)
    return found


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
