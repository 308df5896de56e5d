"""What the nodes of ComfyUI call their inputs, and what their names say that they do. For `comfy.py`.

Knows nothing about graphs. Names are those of nodes.py and comfy_extras/ of ComfyUI, which most custom nodes share.
"""

import re

from sdlora.draw.infotext.flat_json import as_number, file_name

SEED, TEXTS = ("seed", "noise_seed"), ("populated_text", "text", "value", "string", "String", "Text", "prompt",
                                       "prompt_text", "multiline_text", "source", "anything")
NUMBERS = ("value", "int", "float", "number", "Number", "Value", "")
MAKES_WORDS = re.compile(r"generate|llm|ollama|chat|gpt|gemini|claude|qwen|vision|caption|florence|interrogat|tagger|wildcard"
                         r"|random|dynamic|translat|deepseek|joy|describe|enhance", re.I)
JOINS = re.compile(r"concat|combine|join|append|stringfunction", re.I)
CHANGES = re.compile(r"replace|find|regex|trim|strip|substring|slice|truncat|case|lower|upper|split|(?<!multi)(?<!multi[ _-])line"
                     r"|list|select|pick|extract|remove|filter|format|template|index|iterat|cycl|clean(?!gpu)"
                     r"|stringfunction", re.I)
REPLACES = (("string", "find", "replace"), ("text", "find", "replace"))  # the text, what is looked for, what comes instead
PATTERN = re.compile(r"[\\^$.|?*+()\[\]{}/]")  # of a regular expression
COMPUTES = re.compile(r"math|expression|operat|calc|random|evaluat|arithmetic|multipl|divi|subtract|clamp", re.I)
SEPARATORS = ("delimiter", "separator", "delimeter")
MERGES = re.compile(r"^(conditioning|cond)(_?\d+|_?[a-z]|_to|_from)?$")  # inputs that carry conditioning on
NO_WORDS = re.compile(r"model|clip|vae|image|pixels|net|mask|latent|samples|noise|sigmas|sampler|vision|start|end|strength|width"
                      r"|height|guidance|gligen")
PIPES = re.compile(r"pipe|ctx|context|guider|^any|^$|script|tuple", re.I)  # inputs that carry everything on
ENCODERS = (("text_g", "text_l"), ("t5xxl", "clip_l", "clip_g"), ("llama", "clip_l"))  # one prompt for each text encoder
UNET_STRENGTH = ("strength_model", "model_weight", "model_str", "lora_model_strength", "lora_wt", "strength", "weight")
TEXT_STRENGTH = ("strength_clip", "clip_weight", "clip_str", "lora_clip_strength")
LORA = re.compile(r"^lora_?(?:name)?_?(\d{0,2})$")
ACTS = re.compile(r"controlnet|ipadapter|ip_adapter|unclip|stylemodel|gligen|hypernet|setarea|setmask|regional|average"
                  r"|timesteprange|inpaint|instructpix|referencelatent|modelmerge|detailer|styler", re.I)


def is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and isinstance(value[1], int)


def is_text(value: object) -> bool:
    return is_link(value) or (isinstance(value, str) and bool(value.strip()))


def as_lora(name: str, strength: object, text_strength: object) -> dict[str, object] | None:
    """None for no file and for a strength of 0 in both."""
    strength, text_strength = as_number(strength, float), as_number(text_strength, float)
    strength = 1.0 if strength is None else strength
    text = strength if text_strength is None else text_strength
    if not file_name(name) or (strength == 0 and text == 0):
        return None
    return {"name": file_name(name), "strength": strength, "hash": ""} | ({"text_strength": text} if text != strength else {})
