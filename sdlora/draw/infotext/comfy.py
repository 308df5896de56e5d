"""A graph of ComfyUI -> settings under the keys of pipeline.Picture: from the picture back to its sampler, and on to its prompt.

Knows nothing about files. Nodes are known by the names of their inputs (those of ComfyUI's nodes.py and comfy_extras/, which most
custom nodes share). A node that makes or changes the prompt while drawing is named, and nothing is guessed.
"""

import re
from typing import Any

from sdlora.draw import samplers
from sdlora.draw.infotext.a1111 import take_tags
from sdlora.draw.infotext.comfy_graph import MAX_DEPTH, PIPES, SEED, TOO_LARGE, Graph, UnknownNode, is_link, reached
from sdlora.draw.infotext.values import MAX_LORAS, Settings, as_list, as_number, as_text, file_name, is_number, lora

MAX_SAMPLERS = 64
TEXTS = ("populated_text", "text", "value", "string", "String", "Text", "prompt", "prompt_text", "multiline_text", "source",
         "anything")
MAKES_WORDS = re.compile(r"generate|llm|ollama|chat|gpt|gemini|claude|qwen|vision|caption|florence|interrogat|tagger|wildcard"
                         r"|random|dynamic|translat|deepseek|joy|describe|enhance", re.I)
JOINS = re.compile(r"concat|combine|join|append|stringfunction", re.I)
CHANGES = re.compile(r"replace|find|regex|trim|strip|substring|slice|truncat|case|lower|upper|split|(?<!multi)(?<!multi[ _-])line"
                     r"|list|select|pick|extract|remove|filter|format|template|index|iterat|cycl|clean(?!gpu)"
                     r"|stringfunction", re.I)
REPLACES = (("string", "find", "replace"), ("text", "find", "replace"))  # the text, what is looked for, what comes instead
PATTERN = re.compile(r"[\\^$.|?*+()\[\]{}/]")  # of a regular expression
SEPARATORS = ("delimiter", "separator", "delimeter")
MERGES = re.compile(r"^(conditioning|cond)(_?\d+|_?[a-z]|_to|_from)?$")  # inputs that carry conditioning on
NO_WORDS = re.compile(r"model|clip|vae|image|pixels|net|mask|latent|samples|noise|sigmas|sampler|vision|start|end|strength|width"
                      r"|height|guidance|gligen")
ENCODERS = (("text_g", "text_l"), ("t5xxl", "clip_l", "clip_g"), ("llama", "clip_l"))  # one prompt for each text encoder
UNET_STRENGTH = ("strength_model", "model_weight", "model_str", "lora_model_strength", "lora_wt", "strength", "weight")
TEXT_STRENGTH = ("strength_clip", "clip_weight", "clip_str", "lora_clip_strength")
LORA = re.compile(r"^lora_?(?:name)?_?(\d{0,2})$")
ACTS = re.compile(r"controlnet|ipadapter|ip_adapter|unclip|stylemodel|gligen|hypernet|setarea|setmask|regional|average"
                  r"|timesteprange|inpaint|instructpix|referencelatent|modelmerge|detailer|styler", re.I)


def from_comfy(graph: dict[str, Any]) -> Settings:
    """Return the settings of the first sampler on the way to the saved picture. Raises UnknownNode."""
    return Reader(graph).settings()


def as_loras(name: str, strength: object, text_strength: object) -> list[Settings]:
    """Return the LoRA in a list; [] for no file and for a strength of 0 in both."""
    found = lora(file_name(name), as_number(strength, float), as_number(text_strength, float))
    return [found] if found["name"] and (found["strength"] or found.get("text_strength")) else []


class Reader(Graph):
    """Reads the settings of one picture out of its graph."""

    def __init__(self, graph: dict[str, Any]) -> None:
        super().__init__(graph)
        self.loras_of_tags: set[str] = set()  # those that a node reads from `<lora:...>` in a text

    def settings(self) -> Settings:
        key = self.first_sampler()
        inputs = self.nodes[key].inputs
        sigmas, loras = self.spacing(inputs), self.loras(key)
        seed = next((inputs[name] for name in SEED if name in inputs), self.held_at(inputs.get("noise"), "noise_seed"))
        found: Settings = {
            "prompt": self.prompt(key, "positive"), "negative": self.prompt(key, "negative"),
            "seed": self.number(seed, "seed"), "steps": self.number(sigmas.get("steps"), "steps"),
            "guidance": self.number(self.held(key, "cfg"), "cfg"), "loras": loras, **self.size(key)}
        sampler = inputs.get("sampler_name", self.held_at(inputs.get("sampler"), "sampler_name"))
        if sampler := self.text_value(sampler, "sampler", "sampler_name"):
            found["sampler"] = samplers.title(sampler, self.text_value(sigmas.get("scheduler"), "scheduler"))
        found |= self.init_strength(key, sigmas)
        if model := self.model(key):
            found["model"] = model
        self.remark_others(key)
        found = {name: value for name, value in found.items() if value is not None}
        return found | ({"other": self.remarks} if self.remarks else {}) | {"version": "ComfyUI"}

    def is_sampler(self, key: str) -> bool:
        inputs = self.nodes[key].inputs
        drawn = bool({"seed", "noise_seed", "noise"} & inputs.keys()) and bool({"steps", "sigmas"} & inputs.keys())
        given = bool({"positive", "guider"} & inputs.keys()) or any(re.search("pipe|context|tuple", name) for name in inputs)
        return drawn and given and not self.nodes[key].type.lower().startswith("context")

    def first_sampler(self) -> str:
        """Return the sampler that begins the saved picture: no other one is on its way from the noise."""
        used = {str(link[0]) for node in self.nodes.values() for link in node.inputs.values() if is_link(link)}
        ends = [key for key in self.nodes if key not in used][:MAX_SAMPLERS]
        ends.sort(key=lambda key: next((rank for rank, word in enumerate(("save", "preview"))
                                        if word in self.nodes[key].type.lower()), 2))
        for end in ends:
            chain = [key for key in self.upstream(end) if self.is_sampler(key)][-MAX_SAMPLERS:]
            begins = [key for key in chain if not any(self.is_sampler(other) for other in self.upstream(key)[1:])]
            if begins:
                if len(begins) > 1:
                    self.remarks["ComfyUI samplers"] = f"the picture is put together from {len(begins)}; these are of the first"
                return begins[0]
        raise UnknownNode("it has no sampler that sdlora knows")

    def spacing(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return steps, scheduler and denoise of a sampler, or of the node that makes its noise levels."""
        if "steps" in inputs:
            return inputs
        link = inputs.get("sigmas")
        for _ in range(MAX_DEPTH):
            key = self.node(link)
            if not key:
                return {}
            near = self.nodes[key].inputs
            if "steps" in near:
                own = self.nodes[key].type.removesuffix("Scheduler")
                return {"scheduler": own if own not in ("Basic", "Flux2", "SDTurbo") else "", **near}
            link = near.get("sigmas")
        return {}

    def size(self, key: str) -> dict[str, int]:
        """Return the size of the empty latent that the sampler begins with."""
        for near in self.chain(key, ("latent_image", "latent", "samples", "optional_latent")):
            inputs = self.nodes[near].inputs
            if found := re.match(r"(\d{2,5}) ?x ?(\d{2,5})", str(inputs.get("dimensions", inputs.get("resolution", "")))):
                return {"width": int(found[1]), "height": int(found[2])}
            for width, height in (("width", "height"), ("empty_latent_width", "empty_latent_height")):
                if near != key and {width, height} <= inputs.keys() and "samples" not in inputs:
                    sides = {"width": self.number(inputs[width], "width"), "height": self.number(inputs[height], "height")}
                    return {} if None in sides.values() else sides
        piped = {side: self.number(self.held(key, f"empty_latent_{side}"), side) for side in ("width", "height")}
        return {} if None in piped.values() else piped

    def init_strength(self, key: str, sigmas: dict[str, Any]) -> dict[str, float]:
        """Return {"init_strength"} where the sampler begins with a picture: its denoise, or the share of steps it leaves out."""
        start = self.chain(key, ("latent_image", "latent", "samples"))[-1]
        pictured = {"pixels", "image"} & self.nodes[start].inputs.keys()
        steps, begin = self.number(sigmas.get("steps"), "steps"), self.number(sigmas.get("start_at_step"), "start_at_step")
        denoise = 1 - begin / steps if begin and steps else self.number(sigmas.get("denoise"), "denoise")
        if pictured and denoise is not None and 0 < denoise < 1:
            return {"init_strength": round(denoise, 4)}
        if denoise is not None and denoise < 1:
            self.remarks["denoise"] = f"{denoise:g}"
        return {}

    def prompt(self, key: str, role: str) -> str:
        """Return the prompt that a sampler is given. Raises UnknownNode."""
        names = ("positive", "conditioning", "cond1") if role == "positive" else ("negative",)
        link = next((found for name in names if (found := self.held(key, name)) is not None), None)
        if link is None and role == "positive":
            raise UnknownNode(f"{self.nodes[key].type} does not say where its prompt comes from")
        parts = self.conditioning(link, role, 0) if link is not None else []
        parts = list(dict.fromkeys(filter(None, map(as_text, parts))))
        if len(parts) > 1:
            self.remarks[f"{role} prompts"] = f"{len(parts)} joined into one"
        text, tags = take_tags(", ".join(part.rstrip(", ") for part in parts) if len(parts) > 1 else "".join(parts), strict=False)
        if left := [str(tag["name"]) for tag in tags if tag["name"] not in self.loras_of_tags]:  # to ComfyUI they are words
            self.remarks[f"LoRA tags in the {role} prompt"] = ", ".join(left)
        if embeddings := re.findall(r"embedding:([^\s,:()]{1,60})", text):
            self.remarks["embeddings"] = ", ".join(embeddings[:9])
        return re.sub(r"(?<!\\)([\[\]])", r"\\\1", as_text(text))  # square brackets are plain characters there

    def conditioning(self, link: Any, role: str, depth: int) -> list[str]:
        """Return the texts that conditioning was made of. Raises UnknownNode."""
        if isinstance(link, str):
            return [link]
        key, output = self.end(link)
        if not key or depth > MAX_DEPTH:
            raise UnknownNode(TOO_LARGE if key else "a link of its prompt leads nowhere")
        name, inputs = self.nodes[key]
        if name == "ConditioningZeroOut":
            return [""]
        onward = [value for given, value in inputs.items() if is_link(value) and MERGES.match(given)]
        if not onward and is_link(inputs.get("positive")) and is_link(inputs.get("negative")):
            onward = [inputs[("positive", "negative")[output] if output in (0, 1) else role]]  # of a pipe: its linked output
        if not onward:
            if texts := self.encoded(name, inputs, role):
                return texts
            held = self.held(key, role)
            onward = [held] if held is not None and held != link else [
                value for given, value in inputs.items() if is_link(value) and not NO_WORDS.search(given)]
            if len(onward) != 1:
                raise UnknownNode(f"its prompt goes through the node {name}, which sdlora does not know")
        return [text for value in onward for text in self.conditioning(value, role, depth + 1)]

    def encoded(self, name: str, inputs: dict[str, Any], role: str) -> list[str]:
        """Return the texts that a node of text encoders is given, one for each encoder; [] for others. Raises UnknownNode."""
        if "schedul" in name.lower():
            raise UnknownNode(f"its prompt is a schedule of prompts in the node {name}, which sdlora does not know")
        text = inputs.get("text")
        if not is_link(text) and not (isinstance(text, str) and text.strip()):
            for group in ENCODERS:
                if set(group[:2]) <= inputs.keys():
                    return [self.text(inputs[given], role) for given in group if given in inputs]
        given = next((inputs[key] for key in (f"text_{role}", role, *TEXTS) if key in inputs), None)
        reads = {"clip", "opt_clip", "pipe"} & inputs.keys() or "TextEncode" in name or isinstance(given, str)
        return [self.text(given, role)] if given is not None and reads else []

    def text(self, given: Any, role: str, depth: int = 0) -> str:
        """Return a text, also through the nodes that hold or join texts. Raises UnknownNode."""
        if isinstance(given, str):
            return given
        if is_number(given):
            return str(given)
        key = self.node(given)
        if not key or depth > MAX_DEPTH:
            raise UnknownNode(TOO_LARGE if key else "a link of its prompt leads nowhere")
        name, inputs = self.nodes[key]
        if (replaced := self.replaced(name, inputs, role, depth)) is not None:
            return replaced
        if JOINS.search(name) and inputs.get("action") != "replace":
            return self.joined(inputs, role, depth)
        if "populated_text" not in inputs and MAKES_WORDS.search(name):
            raise UnknownNode(f"its prompt was made by the node {name} while drawing, and is not in the file")
        if CHANGES.search(name):
            raise UnknownNode(f"its prompt was changed by the node {name} while drawing, in a way that sdlora does not know")
        texts = (f"text_{role}", role, *TEXTS)
        value = next((inputs[text] for text in texts if isinstance(inputs.get(text), str) or is_link(inputs.get(text))), None)
        if value is None:
            raise UnknownNode(f"its prompt comes from the node {name}, which sdlora does not know")
        return self.text(value, role, depth + 1)

    def replaced(self, name: str, inputs: dict[str, Any], role: str, depth: int) -> str | None:
        """Return the text of a node that replaces words by others; None for other nodes, and where it looks for a pattern."""
        if inputs.get("action") == "replace":
            given: tuple[str, ...] | None = ("text_a", "text_b", "text_c")
        else:
            given = next((names for names in REPLACES if set(names) <= inputs.keys()), None)
        if given is None or not all(is_link(inputs.get(part)) or isinstance(inputs.get(part), str) for part in given):
            return None
        text, find, instead = (self.text(inputs[part], role, depth + 1) for part in given)
        return text.replace(find, instead) if name == "StringReplace" or not PATTERN.search(find) else None

    def joined(self, inputs: dict[str, Any], role: str, depth: int) -> str:
        between = next((str(inputs[name]) for name in SEPARATORS if isinstance(inputs.get(name), str)), ", ")
        parts = [self.text(value, role, depth + 1) for name, value in inputs.items()
                 if (isinstance(value, str) or is_link(value)) and re.match(r"(text|string|str|part|prompt|input|value)", name)]
        return between.replace("\\n", "\n").join(part for part in parts if part)

    def models(self, key: str) -> list[str]:
        """Return the nodes that the sampler's model came through, the nearest first."""
        def carried(near: str) -> list[str]:
            links = [value for name, value in self.nodes[near].inputs.items() if is_link(value) and (
                PIPES.search(name) or name.startswith(("model", "unet_model", "opt_model")) or "lora_stack" in name)]
            return list(filter(None, map(self.node, links)))

        return [near for near in reached(key, carried) if near != key or "lora_name" in self.nodes[key].inputs]

    def model(self, key: str) -> str:
        for near in self.models(key):
            for name in ("ckpt_name", "unet_name", "base_ckpt_name", "model_name"):
                if found := file_name(self.text_value(self.nodes[near].inputs.get(name))):
                    return found
        return ""

    def loras(self, key: str) -> list[Settings]:
        """Return the LoRAs on the model's way, in the order in which they were loaded."""
        found: list[Settings] = []
        for near in reversed(self.models(key)):
            name, inputs = self.nodes[near]
            found += [one for given in inputs for one in self.loras_in(inputs, given)] or self.tagged(near)
            if ACTS.search(name):
                self.remarks.setdefault("ComfyUI nodes", name)
        return found[:MAX_LORAS]

    def tagged(self, key: str) -> list[Settings]:
        """Return the LoRAs that a node on the model's way reads from `<lora:...>` in its text."""
        inputs = self.nodes[key].inputs
        carries = is_link(inputs.get("model", inputs.get("opt_model"))) and not self.is_sampler(key)
        names = ("loras", *TEXTS) if carries else ("loras",)
        text = next((inputs[name] for name in names if isinstance(inputs.get(name), str)), "")
        loras = [one for tag in take_tags(text, strict=False)[1]
                 for one in as_loras(tag["name"], tag["strength"], tag.get("text_strength"))]
        self.loras_of_tags |= {one["name"] for one in loras}
        return loras

    def loras_in(self, inputs: dict[str, Any], given: str) -> list[Settings]:
        """Return the LoRAs in an input: a name with strengths beside it, {"on", "lora", "strength"} or [{"name", "strength"}]."""
        value = inputs[given]
        if isinstance(value, dict) and isinstance(value.get("lora"), str):
            return as_loras(value["lora"], value.get("strength"), value.get("strengthTwo")) if value.get("on", True) else []
        if given == "loras":
            listed = as_list(value.get("__value__") if isinstance(value, dict) else value)
            return [one for entry in listed if isinstance(entry, dict) and isinstance(entry.get("name"), str)
                    and entry.get("active", True)
                    for one in as_loras(entry["name"], entry.get("strength"), entry.get("clipStrength"))]
        matched, name = LORA.match(given), self.text_value(value)
        if not matched or not name:
            return []
        end = f"_{matched[1]}" if matched[1] else ""
        count = self.plain(inputs.get("lora_count"))
        if str(inputs.get(f"switch{end}", "On")).lower() in ("off", "false") or (
                is_number(count) and matched[1] and int(matched[1]) > count):
            return []
        simple = inputs.get("input_mode") == "simple"
        strength = self.strength(inputs, [f"{key}{end}" for key in (("lora_wt",) if simple else UNET_STRENGTH)])
        text = strength if simple else self.strength(inputs, [f"{key}{end}" for key in TEXT_STRENGTH])
        if text is None and "strength_model" in inputs:
            text = 0.0  # LoraLoaderModelOnly leaves the text encoders alone
        return as_loras(name, strength, text)

    def strength(self, inputs: dict[str, Any], names: list[str]) -> float | None:
        return next((self.number(inputs[name], "strength") for name in names if name in inputs), None)

    def remark_others(self, key: str) -> None:
        """Add remarks about what else shaped the picture."""
        others = sum(self.is_sampler(near) for near in self.nodes) - 1
        if others > 0:
            self.remarks.setdefault("ComfyUI samplers", f"{others} more in its graph")
        made_from = [self.nodes[near] for near in self.upstream(key)]
        acting = dict.fromkeys(name for name, _ in made_from if ACTS.search(name) and "loader" not in name.lower())
        if acting:
            self.remarks["ComfyUI nodes"] = ", ".join(acting)[:100]
        for name, inputs in made_from:
            if name == "CLIPSetLastLayer" and is_number(inputs.get("stop_at_clip_layer")):
                self.remarks["Clip skip"] = str(-int(inputs["stop_at_clip_layer"]))
            if name in ("FluxGuidance", "CLIPTextEncodeFlux"):
                self.remarks["Flux guidance"] = str(self.plain(inputs.get("guidance")))
