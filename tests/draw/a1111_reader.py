"""How stable-diffusion-webui 1.10 reads infotext (modules/infotext_utils.py, modules/extra_networks.py), re-expressed."""

import json
import re
from collections import defaultdict

RE_PARAM = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
RE_SIZE = re.compile(r"^(\d+)x(\d+)$")
RE_NET = re.compile(r"<(\w+):([^>]+)>")


def parse_generation_parameters(text: str) -> dict[str, str]:
    """What A1111 puts into its fields when this text is pasted."""
    found, prompt, negative, in_negative = {}, "", "", False
    *lines, last = text.strip().split("\n")
    if len(RE_PARAM.findall(last)) < 3:
        lines, last = [*lines, last], ""
    for line in (line.strip() for line in lines):
        if line.startswith("Negative prompt:"):
            in_negative, line = True, line[16:].strip()
        if in_negative:
            negative += ("\n" if negative else "") + line
        else:
            prompt += ("\n" if prompt else "") + line
    for key, value in RE_PARAM.findall(last):
        value = json.loads(value) if value[:1] == '"' == value[-1:] else value
        size = RE_SIZE.match(value)
        found |= {f"{key}-1": size[1], f"{key}-2": size[2]} if size else {key: value}
    return found | {"Prompt": prompt, "Negative prompt": negative}


def extra_networks(prompt: str) -> tuple[str, dict[str, list[tuple[str, float, float]]]]:
    """(words, {"lora": [(name, text strength, unet strength)]}) as parse_prompt and ExtraNetworkLora.activate take them."""
    nets = defaultdict(list)

    def found(match):
        positional, named = [], {}
        for item in match[2].split(":"):
            parts = item.split("=", 2)
            if len(parts) == 2:
                named[parts[0]] = parts[1]
            else:
                positional.append(item)
        text = float(named.get("te", positional[1] if len(positional) > 1 else 1.0))
        unet = float(named.get("unet", positional[2] if len(positional) > 2 else text))
        nets[match[1]].append((positional[0], text, unet))
        return ""
    return RE_NET.sub(found, prompt), dict(nets)
