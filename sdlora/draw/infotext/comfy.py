"""A graph of ComfyUI -> settings under the keys of pipeline.Picture: from the picture back to its sampler, and on to its words.

Knows nothing about files. A graph is what ComfyUI queues (`prompt`, "API format"): {id: {"class_type", "inputs"}}, an input is a
value or a link [id, output]. Nodes are known by the names of their inputs (see nodes.py); a node whose words cannot be known,
since it makes or changes them while drawing, is named and nothing is guessed.
"""

import re

from sdlora.draw import samplers
from sdlora.draw.infotext import nodes
from sdlora.draw.infotext.a1111 import take_tags
from sdlora.draw.infotext.flat_json import MAX_TAGS, as_list, as_number, file_name, is_number, words
from sdlora.draw.infotext.nodes import as_lora, is_link, is_text

MAX_NODES, MAX_DEPTH, MAX_STEPS, MAX_SAMPLERS = 3000, 60, 20_000, 64
TOO_LARGE = "its graph is too large to be followed"


class UnknownNode(ValueError):
    """The words of a picture, or its sampler, cannot be found in its graph: the text says why."""


def from_comfy(graph: dict[str, object]) -> dict[str, object]:
    """The settings of the first sampler on the way to the saved picture. Raises UnknownNode."""
    return Graph(graph).settings()


class Graph:
    """The nodes of one picture, and `remarks`: what they do that sdlora has not."""

    def __init__(self, graph: dict[str, object]) -> None:
        self.nodes = {key: {"class_type": str(node.get("class_type")), "inputs": node["inputs"]}
                      for key, node in list(graph.items())[:MAX_NODES]
                      if isinstance(node, dict) and isinstance(node.get("inputs"), dict)}
        self.remarks: dict[str, str] = {}
        self.read_tags: set[str] = set()  # the LoRAs that a node read from `<lora:...>` among words
        self.steps = 0

    def settings(self) -> dict[str, object]:
        key = self.first_sampler()
        inputs = self.nodes[key]["inputs"]
        sigmas, loras = self.spacing(inputs), self.loras(key)
        found: dict[str, object] = {
            "prompt": self.prompt(key, "positive"), "negative": self.prompt(key, "negative"),
            "seed": self.seed(inputs), "steps": self.number(sigmas.get("steps"), "steps"),
            "guidance": self.number(self.held(key, "cfg"), "cfg"), "loras": loras, **self.size(key)}
        sampler = inputs.get("sampler_name", self.held_at(inputs.get("sampler"), "sampler_name"))
        if sampler := self.text_value(sampler, "sampler", "sampler_name"):
            found["sampler"] = samplers.title(sampler, self.text_value(sigmas.get("scheduler"), "scheduler"))
        found |= self.drawn_over(key, sigmas)
        if model := self.model(key):
            found["model"] = model
        self.remark_others(key)
        found = {name: value for name, value in found.items() if value is not None}
        return found | ({"other": self.remarks} if self.remarks else {}) | {"version": "ComfyUI"}

    def node(self, link: object) -> str:
        """The id of the node at a link, past reroutes and switches; "" for what is no link. Raises UnknownNode."""
        return self.end(link)[0]

    def end(self, link: object) -> tuple[str, int]:
        """The id of the node at a link, past reroutes and switches, and which of its outputs; ("", 0) for what is no link."""
        while is_link(link) and str(link[0]) in self.nodes:
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise UnknownNode(TOO_LARGE)
            key = str(link[0])
            name, inputs = self.nodes[key]["class_type"], self.nodes[key]["inputs"]
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

    def plain(self, given: object) -> object:
        """A value, or that of the primitive node it is linked to."""
        if not is_link(given):
            return given
        key = self.node(given)
        return self.nodes[key]["inputs"].get("value") if key else None

    def upstream(self, key: str) -> list[str]:
        """The node and all that it is made from, nearest first."""
        order, waiting = {key: None}, [key]
        for near in waiting:
            for link in self.nodes[near]["inputs"].values():
                if is_link(link) and str(link[0]) in self.nodes and str(link[0]) not in order:
                    order[str(link[0])] = None
                    waiting.append(str(link[0]))
        return list(order)

    def is_sampler(self, key: str) -> bool:
        inputs = self.nodes[key]["inputs"]
        drawn = bool({"seed", "noise_seed", "noise"} & inputs.keys()) and bool({"steps", "sigmas"} & inputs.keys())
        given = bool({"positive", "guider"} & inputs.keys()) or any(re.search("pipe|context|tuple", name) for name in inputs)
        return drawn and given and not self.nodes[key]["class_type"].lower().startswith("context")

    def first_sampler(self) -> str:
        """The sampler that begins the saved picture: no other one is on its way from the noise."""
        used = {str(link[0]) for node in self.nodes.values() for link in node["inputs"].values() if is_link(link)}
        ends = [key for key in self.nodes if key not in used][:MAX_SAMPLERS]
        ends.sort(key=lambda key: next((rank for rank, word in enumerate(("save", "preview"))
                                        if word in self.nodes[key]["class_type"].lower()), 2))
        for end in ends:
            chain = [key for key in self.upstream(end) if self.is_sampler(key)][-MAX_SAMPLERS:]
            begins = [key for key in chain if not any(self.is_sampler(other) for other in self.upstream(key)[1:])]
            if begins:
                if len(begins) > 1:
                    self.remarks["ComfyUI samplers"] = f"the picture is put together from {len(begins)}; these are of the first"
                return begins[0]
        raise UnknownNode("it has no sampler that sdlora knows")

    def held(self, key: str, name: str, depth: int = 0) -> object:
        """An input of a node, or of the pipe or guider that it is handed."""
        inputs = self.nodes[key]["inputs"] if key else {}
        if name in inputs or depth > MAX_DEPTH:
            return inputs.get(name)
        for given, link in inputs.items():
            if is_link(link) and nodes.PIPES.search(given) and (found := self.held_at(link, name, depth + 1)) is not None:
                return found
        return None

    def held_at(self, link: object, name: str, depth: int = 0) -> object:
        return self.held(self.node(link), name, depth)

    def number(self, given: object, name: str, depth: int = 0) -> int | float | None:
        """A number, also through the nodes that hold one; None where it is computed."""
        if not is_link(given):
            return as_number(given, float if name in ("cfg", "denoise", "strength") else int)
        key = self.node(given)
        inputs = self.nodes[key]["inputs"] if key else {}
        computed = bool(key) and len(inputs) > 1 and nodes.COMPUTES.search(self.nodes[key]["class_type"])
        for candidate in (name, *(nodes.SEED if name in nodes.SEED else ()), *(() if computed else nodes.NUMBERS)):
            given = inputs.get(candidate) if candidate in nodes.NUMBERS else self.held(key, candidate)
            value = self.number(given, name, depth + 1) if given is not None and depth < MAX_DEPTH else None
            if value is not None:
                return value
        if depth == 0 and key:
            self.remarks[name] = f"comes from {self.nodes[key]['class_type']}"
        return None

    def seed(self, inputs: dict[str, object]) -> int | None:
        given = next((inputs[name] for name in nodes.SEED if name in inputs), self.held_at(inputs.get("noise"), "noise_seed"))
        return self.number(given, "seed")

    def spacing(self, inputs: dict[str, object]) -> dict[str, object]:
        """steps, scheduler and denoise of a sampler, or of the node that makes its noise levels."""
        if "steps" in inputs:
            return inputs
        link = inputs.get("sigmas")
        for _ in range(MAX_DEPTH):
            key = self.node(link)
            if not key:
                return {}
            near = self.nodes[key]["inputs"]
            if "steps" in near:
                own = self.nodes[key]["class_type"].removesuffix("Scheduler")
                return {"scheduler": own if own not in ("Basic", "Flux2", "SDTurbo") else "", **near}
            link = near.get("sigmas")
        return {}

    def size(self, key: str) -> dict[str, int]:
        """Of the empty latent that the sampler begins with."""
        for near in self.chain(key, ("latent_image", "latent", "samples", "optional_latent")):
            inputs = self.nodes[near]["inputs"]
            if found := re.match(r"(\d{2,5}) ?x ?(\d{2,5})", str(inputs.get("dimensions", inputs.get("resolution", "")))):
                return {"width": int(found[1]), "height": int(found[2])}
            for width, height in (("width", "height"), ("empty_latent_width", "empty_latent_height")):
                if near != key and {width, height} <= inputs.keys() and "samples" not in inputs:
                    sides = {"width": self.number(inputs[width], "width"), "height": self.number(inputs[height], "height")}
                    return {} if None in sides.values() else sides
        piped = {side: self.number(self.held(key, f"empty_latent_{side}"), side) for side in ("width", "height")}
        return {} if None in piped.values() else piped

    def chain(self, key: str, names: tuple[str, ...]) -> list[str]:
        """The node, the one at the first of these inputs, and so on."""
        keys = [key]
        while len(keys) < MAX_DEPTH:
            following = next((key for name in names if (key := self.node(self.held(keys[-1], name)))), "")
            if not following or following in keys:
                break
            keys.append(following)
        return keys

    def drawn_over(self, key: str, sigmas: dict[str, object]) -> dict[str, float]:
        """{"init_strength"} where the sampler begins with a picture: its denoise, or the share of steps that it leaves out."""
        start = self.chain(key, ("latent_image", "latent", "samples"))[-1]
        pictured = {"pixels", "image"} & self.nodes[start]["inputs"].keys()
        steps, begin = self.number(sigmas.get("steps"), "steps"), self.number(sigmas.get("start_at_step"), "start_at_step")
        denoise = 1 - begin / steps if begin and steps else self.number(sigmas.get("denoise"), "denoise")
        if pictured and denoise is not None and 0 < denoise < 1:
            return {"init_strength": round(denoise, 4)}
        if denoise is not None and denoise < 1:
            self.remarks["denoise"] = f"{denoise:g}"
        return {}

    def text_value(self, given: object, *names: str) -> str:
        """A short text such as a sampler's name, also from a node that has it under one of `names`; "" where it is computed."""
        if not is_link(given):
            return given if isinstance(given, str) else ""
        key = self.node(given)
        found = next((value for name in ("value", *names) if isinstance(value := self.held(key, name), str)), "")
        if key and names and not found:
            self.remarks[names[0]] = f"comes from {self.nodes[key]['class_type']}"
        return found

    def prompt(self, key: str, role: str) -> str:
        """The words that a sampler is given. Raises UnknownNode."""
        names = ("positive", "conditioning", "cond1") if role == "positive" else ("negative",)
        link = next((found for name in names if (found := self.held(key, name)) is not None), None)
        if link is None and role == "positive":
            raise UnknownNode(f"{self.nodes[key]['class_type']} does not say where its prompt comes from")
        parts = self.conditioning(link, role, 0) if link is not None else []
        parts = list(dict.fromkeys(filter(None, map(words, parts))))
        if len(parts) > 1:
            self.remarks[f"{role} prompts"] = f"{len(parts)} joined into one"
        text, tags = take_tags(", ".join(part.rstrip(", ") for part in parts) if len(parts) > 1 else "".join(parts), strict=False)
        if left := [str(tag["name"]) for tag in tags if tag["name"] not in self.read_tags]:  # ComfyUI itself takes them for words
            self.remarks[f"LoRA tags in the {role} prompt"] = ", ".join(left)
        if embeddings := re.findall(r"embedding:([^\s,:()]{1,60})", text):
            self.remarks["embeddings"] = ", ".join(embeddings[:9])
        return re.sub(r"(?<!\\)([\[\]])", r"\\\1", words(text))  # square brackets are letters there

    def conditioning(self, link: object, role: str, depth: int) -> list[str]:
        """The texts that conditioning was made of. Raises UnknownNode."""
        if isinstance(link, str):
            return [link]
        key, output = self.end(link)
        if not key or depth > MAX_DEPTH:
            raise UnknownNode(TOO_LARGE if key else "a link of its prompt leads nowhere")
        name, inputs = self.nodes[key]["class_type"], self.nodes[key]["inputs"]
        if name == "ConditioningZeroOut":
            return [""]
        onward = [value for given, value in inputs.items() if is_link(value) and nodes.MERGES.match(given)]
        if not onward and is_link(inputs.get("positive")) and is_link(inputs.get("negative")):
            onward = [inputs[("positive", "negative")[output] if output in (0, 1) else role]]  # of a pipe: the one asked for
        if not onward:
            if texts := self.encoded(name, inputs, role):
                return texts
            held = self.held(key, role)
            onward = [held] if held is not None and held != link else [
                value for given, value in inputs.items() if is_link(value) and not nodes.NO_WORDS.search(given)]
            if len(onward) != 1:
                raise UnknownNode(f"its prompt goes through the node {name}, which sdlora does not know")
        return [text for value in onward for text in self.conditioning(value, role, depth + 1)]

    def encoded(self, name: str, inputs: dict[str, object], role: str) -> list[str]:
        """The texts that a text encoder's node is given, different ones for each encoder; [] for others. Raises UnknownNode."""
        if "schedul" in name.lower():
            raise UnknownNode(f"its prompt is a schedule of prompts in the node {name}, which sdlora does not know")
        if not is_text(inputs.get("text")):
            for group in nodes.ENCODERS:
                if set(group[:2]) <= inputs.keys():
                    return [self.text(inputs[given], role) for given in group if given in inputs]
        given = next((inputs[key] for key in (f"text_{role}", role, *nodes.TEXTS) if key in inputs), None)
        reads = {"clip", "opt_clip", "pipe"} & inputs.keys() or "TextEncode" in name or isinstance(given, str)
        return [self.text(given, role)] if given is not None and reads else []

    def text(self, given: object, role: str, depth: int = 0) -> str:
        """A text, also through the nodes that hold or join texts. Raises UnknownNode."""
        if isinstance(given, str):
            return given
        if is_number(given):
            return str(given)
        key = self.node(given)
        if not key or depth > MAX_DEPTH:
            raise UnknownNode(TOO_LARGE if key else "a link of its prompt leads nowhere")
        name, inputs = self.nodes[key]["class_type"], self.nodes[key]["inputs"]
        if (told := self.replaced(name, inputs, role, depth)) is not None:
            return told
        if nodes.JOINS.search(name) and inputs.get("action") != "replace":
            return self.joined(inputs, role, depth)
        if "populated_text" not in inputs and nodes.MAKES_WORDS.search(name):
            raise UnknownNode(f"its prompt was made by the node {name} while drawing, and is not in the file")
        if nodes.CHANGES.search(name):
            raise UnknownNode(f"its prompt was changed by the node {name} while drawing, in a way that sdlora does not know")
        texts = (f"text_{role}", role, *nodes.TEXTS)
        value = next((inputs[text] for text in texts if isinstance(inputs.get(text), str) or is_link(inputs.get(text))), None)
        if value is None:
            raise UnknownNode(f"its prompt comes from the node {name}, which sdlora does not know")
        return self.text(value, role, depth + 1)

    def replaced(self, name: str, inputs: dict[str, object], role: str, depth: int) -> str | None:
        """The text of a node that puts words in the place of others; None for other nodes, and where it looks for a pattern."""
        if inputs.get("action") == "replace":
            given: tuple[str, ...] | None = ("text_a", "text_b", "text_c")
        else:
            given = next((names for names in nodes.REPLACES if set(names) <= inputs.keys()), None)
        if given is None or not all(is_link(inputs.get(part)) or isinstance(inputs.get(part), str) for part in given):
            return None
        text, find, instead = (self.text(inputs[part], role, depth + 1) for part in given)
        return text.replace(find, instead) if name == "StringReplace" or not nodes.PATTERN.search(find) else None

    def joined(self, inputs: dict[str, object], role: str, depth: int) -> str:
        between = next((str(inputs[name]) for name in nodes.SEPARATORS if isinstance(inputs.get(name), str)), ", ")
        parts = [self.text(value, role, depth + 1) for name, value in inputs.items()
                 if (isinstance(value, str) or is_link(value)) and re.match(r"(text|string|str|part|prompt|input|value)", name)]
        return between.replace("\\n", "\n").join(part for part in parts if part)

    def models(self, key: str) -> list[str]:
        """The nodes that the sampler's model came through, the nearest first."""
        keys, waiting = {key: None}, [key]
        for near in waiting:
            inputs = self.nodes[near]["inputs"]
            links = [value for name, value in inputs.items() if is_link(value) and (
                nodes.PIPES.search(name) or name.startswith(("model", "unet_model", "opt_model")) or "lora_stack" in name)]
            for following in filter(None, map(self.node, links)):
                if following not in keys:
                    keys[following] = None
                    waiting.append(following)
        return [near for near in keys if near != key or "lora_name" in self.nodes[key]["inputs"]]

    def model(self, key: str) -> str:
        for near in self.models(key):
            for name in ("ckpt_name", "unet_name", "base_ckpt_name", "model_name"):
                if found := file_name(self.text_value(self.nodes[near]["inputs"].get(name))):
                    return found
        return ""

    def loras(self, key: str) -> list[dict[str, object]]:
        """The LoRAs on the model's way, in the order in which they were loaded."""
        found: list[dict[str, object]] = []
        for near in reversed(self.models(key)):
            inputs, name = self.nodes[near]["inputs"], self.nodes[near]["class_type"]
            found += [lora for given in inputs for lora in self.loras_in(inputs, given) if lora] or self.tagged(near)
            if nodes.ACTS.search(name):
                self.remarks.setdefault("ComfyUI nodes", name)
        return found[:MAX_TAGS]

    def tagged(self, key: str) -> list[dict[str, object]]:
        """The LoRAs that a node on the model's way reads from `<lora:...>` in its text."""
        inputs = self.nodes[key]["inputs"]
        carries = is_link(inputs.get("model", inputs.get("opt_model"))) and not self.is_sampler(key)
        names = ("loras", *nodes.TEXTS) if carries else ("loras",)
        text = next((inputs[name] for name in names if isinstance(inputs.get(name), str)), "")
        loras = [as_lora(str(tag["name"]), tag["strength"], tag.get("text_strength")) for tag in take_tags(text, strict=False)[1]]
        self.read_tags |= {lora["name"] for lora in loras if lora}
        return [lora for lora in loras if lora]

    def loras_in(self, inputs: dict[str, object], given: str) -> list[dict[str, object] | None]:
        """The LoRAs in one input: a name with strengths beside it, {"on", "lora", "strength"}, or [{"name", "strength"}]."""
        value = inputs[given]
        if isinstance(value, dict) and isinstance(value.get("lora"), str):
            return [as_lora(value["lora"], value.get("strength"), value.get("strengthTwo"))] if value.get("on", True) else []
        if given == "loras":
            listed = as_list(value.get("__value__") if isinstance(value, dict) else value)
            return [as_lora(one["name"], one.get("strength"), one.get("clipStrength")) for one in listed
                    if isinstance(one, dict) and isinstance(one.get("name"), str) and one.get("active", True)]
        matched, name = nodes.LORA.match(given), self.text_value(value)
        if not matched or not name:
            return []
        end = f"_{matched[1]}" if matched[1] else ""
        count = self.plain(inputs.get("lora_count"))
        if str(inputs.get(f"switch{end}", "On")).lower() in ("off", "false") or (
                is_number(count) and matched[1] and int(matched[1]) > count):
            return []
        simple = inputs.get("input_mode") == "simple"
        strength = self.strength(inputs, [f"{key}{end}" for key in (("lora_wt",) if simple else nodes.UNET_STRENGTH)])
        text = strength if simple else self.strength(inputs, [f"{key}{end}" for key in nodes.TEXT_STRENGTH])
        if text is None and "strength_model" in inputs:
            text = 0.0  # LoraLoaderModelOnly leaves the text encoders alone
        return [as_lora(name, strength, text)]

    def strength(self, inputs: dict[str, object], names: list[str]) -> float | None:
        return next((self.number(inputs[name], "strength") for name in names if name in inputs), None)

    def remark_others(self, key: str) -> None:
        """Name what else shaped the picture."""
        others = sum(self.is_sampler(near) for near in self.nodes) - 1
        if others > 0:
            self.remarks.setdefault("ComfyUI samplers", f"{others} more in its graph")
        acting = dict.fromkeys(node["class_type"] for near in self.upstream(key) for node in [self.nodes[near]]
                               if nodes.ACTS.search(node["class_type"]) and "loader" not in node["class_type"].lower())
        if acting:
            self.remarks["ComfyUI nodes"] = ", ".join(acting)[:100]
        for near in self.upstream(key):
            inputs = self.nodes[near]["inputs"]
            if self.nodes[near]["class_type"] == "CLIPSetLastLayer" and is_number(inputs.get("stop_at_clip_layer")):
                self.remarks["Clip skip"] = str(-int(inputs["stop_at_clip_layer"]))
            if self.nodes[near]["class_type"] in ("FluxGuidance", "CLIPTextEncodeFlux"):
                self.remarks["Flux guidance"] = str(self.plain(inputs.get("guidance")))
