"""A text file of prompts -> prompts, each with the settings that its line names.

Knows nothing about drawing. One prompt a line, `# comment` lines, and the options that kohya's sample prompts
(`--n --w --h --d --s --l --ss`) and A1111's "Prompts from file or textbox" (`--negative_prompt --width …`) put behind a prompt.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdlora.dataset.encoding import lines_of, read_text
from sdlora.draw import samplers
from sdlora.errors import UserError
from sdlora.storage import clean_text

MAX_BYTES = 4 << 20
OPTION = re.compile(r"(?:^|\s+)--(?=[A-Za-z])")
FIELDS = {"n": "negative", "negative_prompt": "negative", "w": "width", "width": "width", "h": "height", "height": "height",
          "d": "seed", "seed": "seed", "s": "steps", "steps": "steps", "l": "guidance", "cfg_scale": "guidance",
          "ss": "sampler", "sampler_name": "sampler", "prompt": "prompt"}
KOHYA_SAMPLERS = {"pndm": "PLMS", "dpm_2": "DPM2", "dpm_2_a": "DPM2 a", "dpmsolver": "DPM++ 2M", "dpmsolver++": "DPM++ 2M",
                  "dpmsingle": "DPM++ 2S"}


@dataclass(frozen=True)
class Line:
    """A prompt and the fields of DrawConfig that its line sets; `number` counts all lines of the file from 1."""
    number: int
    prompt: str
    settings: dict[str, Any] = field(default_factory=dict)


def read_prompts(path: Path) -> tuple[list[Line], list[str]]:
    """Return the prompts of a file, and sentences about what was guessed or is not used. Raises UserError."""
    if path.suffix.lower() in (".json", ".toml", ".yaml", ".yml"):
        raise UserError(f"{path.name} is not a text file with one prompt a line.", "Write its prompts into a .txt file.")
    text, guessed = read_text(path, path.name, MAX_BYTES, f"{path.name} is larger than {MAX_BYTES >> 20} MB.")
    lines, notes = [], []
    if guessed:
        notes.append(f"{path.name} is not marked as any encoding and was read as {guessed}.")
    for number, written in enumerate(lines_of(text), start=1):
        written = clean_text(written, MAX_BYTES)
        if written and not written.startswith("#"):
            line, remarks = read_line(number, written)
            if line.prompt:
                lines.append(line)
            else:
                remarks.append("it has no prompt and is left out")
            notes += [f"Line {number} of {path.name}: {remark}." for remark in remarks]
    return lines, notes


def read_line(number: int, text: str) -> tuple[Line, list[str]]:
    """Return the prompt of one line with its settings, and remarks about its options."""
    prompt, *options = OPTION.split(text)
    settings: dict[str, Any] = {"prompt": prompt.strip()}
    remarks = []
    for option in options:
        key, _, value = option.partition(" ")
        name, value = FIELDS.get(key.lower(), ""), value.strip()
        try:
            settings[name] = typed(name, value)
            if name in ("width", "height") and settings[name] != int(value):
                remarks.append(f"--{option.strip()} is taken as {settings[name]}")
        except (ValueError, UserError):
            remarks.append(f"--{option.strip()} is not used")
    return Line(number, settings.pop("prompt"), settings), remarks


def typed(name: str, value: str) -> object:
    """Return the value of an option for a field of DrawConfig. Raises ValueError or UserError for a wrong one."""
    if name in ("prompt", "negative"):
        return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    if name == "sampler":
        plain = value.strip('"').removeprefix("k_")
        return samplers.official(KOHYA_SAMPLERS.get(plain.lower(), plain))
    if name == "guidance":
        return float(value)
    if name in ("width", "height"):
        return int(value) // 8 * 8  # rounded as in kohya's scripts
    if name in ("seed", "steps") and int(value) >= 0:
        return int(value)
    raise ValueError(name)
