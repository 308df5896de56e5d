"""`sdlora draw`: pictures from the command line. Knows nothing about denoising."""

import json
import re
import time
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import accumulate, groupby
from pathlib import Path
from typing import Annotated

import typer

from sdlora.cli.files import check_pictures
from sdlora.cli.progress import bars
from sdlora.config import DrawConfig, make
from sdlora.draw import grammar, samplers
from sdlora.draw.prompts_file import Line, read_prompts
from sdlora.errors import UserError
from sdlora.jobs.execute import DRAWING_LOCK
from sdlora.jobs.lock import hold
from sdlora.storage import home

LORA_KEYS = {"te": "text_strength", "blocks": "blocks", "start": "start", "end": "end"}


def register(app: typer.Typer) -> None:
    app.command("draw")(draw)


def draw(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw")] = None,
    prompts_file: Annotated[Path | None, typer.Option(
        help="A text file with one prompt a line; # begins a comment, --n --w --h --d --s --l are settings of a line")] = None,
    base: Annotated[str, typer.Option(help="mini, a diffusers folder, a .safetensors file or a hub id")] = "mini",
    lora: Annotated[list[str] | None, typer.Option(
        metavar="FILE[:STRENGTH][,te=,blocks=,start=,end=]", help="A LoRA; may be given again. te: its strength in the text "
        "encoders; blocks: a preset such as 'style only', or a number per block; start, end: shares of the steps")] = None,
    method: Annotated[str, typer.Option(
        help="How several LoRAs act: sum, switch, composite, or style-subject (give the style first)")] = "sum",
    switch_every: Annotated[int, typer.Option(help="Steps until the next LoRA takes over (switch)")] = 5,
    sampler: Annotated[str, typer.Option(help="Such as 'DPM++ 2M Karras'; default: the base's own")] = "",
    init: Annotated[Path | None, typer.Option(metavar="PICTURE", help="Begin from this picture")] = None,
    mask: Annotated[Path | None, typer.Option(metavar="PICTURE", help="White where --init is drawn anew")] = None,
    strength: Annotated[float, typer.Option(help="How far --init is changed, up to 1")] = 0.6,
    negative: Annotated[str, typer.Option(help="What to keep out")] = "",
    size: Annotated[str, typer.Option(metavar="WxH", help="px; default: the base's own size")] = "",
    seed: Annotated[int, typer.Option(help="Picture j of every prompt uses seed + j")] = 1,
    count: Annotated[int, typer.Option(help="Pictures per prompt")] = 1,
    steps: Annotated[int, typer.Option(help="Denoising steps")] = 20,
    guidance: Annotated[float, typer.Option(help="How closely the prompt is followed; 1: no guidance")] = 5.0,
    out: Annotated[Path, typer.Option(help="Folder for the pictures")] = Path(),
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu")] = "auto",
    download: Annotated[bool, typer.Option("--download", help="Fetch the base from the hub when it is not here")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line")] = False,
) -> None:
    """Draw pictures with a base model and any number of LoRAs. Prompt i, picture j is written to OUT/iii-jj.png."""
    from sdlora.library.tags import with_tags  # the shelf opens pictures: nothing for --help

    lines, notes = read_prompts(prompts_file) if prompts_file else ([], [])
    for note in notes:
        typer.echo(note, err=True)
    lines = [Line(0, prompt) for prompt in prompts or []] + lines
    if not lines:
        raise UserError("There is nothing to draw.", 'Give a prompt: sdlora draw "a red house" --out pictures')
    width, height = parse_size(size)
    shared = {
        "negative": negative, "base": base, "loras": [parse_lora(text) for text in lora or []],
        "method": method, "switch_every": switch_every, "sampler": sampler, "init": named_file(init), "mask": named_file(mask),
        "init_strength": strength, "seed": seed, "count": count, "steps": steps, "guidance": guidance, "width": width,
        "height": height, "device": device}
    configs = [with_tags(config) for config in drawings(lines, shared)]
    say_notes(configs, refuse=True)
    if sampler:
        samplers.official(sampler)  # a misspelt name is said before the base is loaded
    check_pictures(out, [f"{prompt:03d}-{image:02d}.png" for prompt in range(len(lines)) for image in range(count)],
                   [init, mask])
    if download:
        from sdlora.cli.bases import fetch
        fetch(base, ask=not as_json)
    write_pictures(configs, out, as_json)


def say_notes(configs: Iterable[DrawConfig], *, refuse: bool = False) -> None:
    """Tell on stderr what in prompts and settings does not act; refuse: raise UserError for a prompt that fails."""
    configs = list(configs)
    texts = list(dict.fromkeys(text for config in configs for text in (*config.prompts, config.negative)))
    for wrong in filter(None, map(grammar.problem, texts)) if refuse else ():
        raise wrong
    late = [f"A LoRA takes over after {config.switch_every} steps, and there are {config.steps}: the others never act."
            for config in configs if config.method == "switch" and len(config.loras) > 1 and config.switch_every >= config.steps]
    for note in dict.fromkeys([*grammar.notes(*texts), *late]):
        typer.echo(note, err=True)


def drawings(lines: list[Line], shared: dict[str, object]) -> list[DrawConfig]:
    """The drawings that make all prompts in their order; neighbours with the same settings are drawn together.

    Raises UserError, naming the line of the file where a setting of that line is wrong.
    """
    configs = []
    for settings, group in groupby(lines, lambda line: line.settings):
        together = list(group)
        try:
            configs.append(make(DrawConfig, shared | settings | {"prompts": [line.prompt for line in together]}))
        except UserError as error:
            if not settings:
                raise
            raise UserError(f"Line {together[0].number} of the prompts: {error.message}", error.hint) from error
    return configs


def write_pictures(configs: list[DrawConfig], out: Path, as_json: bool) -> None:
    """Draw all of `configs`, which share base and device, into `out`, telling of each picture as it is written."""
    from sdlora.base.load import load_base
    from sdlora.draw import infotext, pipeline

    began = time.monotonic()
    loaded = load_base(configs[0].base, configs[0].device)
    total = sum(len(config.prompts) * config.count for config in configs)
    # a training that runs beside waits meanwhile, as it does for the page
    with hold(home() / DRAWING_LOCK, 10) or nullcontext(), bars(transient=True, disable=as_json) as progress:
        bar = progress.add_task(f"Drawing {total} picture{'s' * (total > 1)}", total=total)
        firsts = accumulate((len(config.prompts) for config in configs), initial=0)  # prompts before each drawing
        for first, config in zip(firsts, configs, strict=False):
            for event in pipeline.draw(loaded, config):
                index = first + event.prompt_index
                done = index * config.count + event.image_index
                if isinstance(event, pipeline.Preview):
                    progress.update(bar, completed=done + event.step / event.steps)
                    continue
                path = out / f"{index:03d}-{event.image_index:02d}.png"
                infotext.write_picture(path, event.image, event.settings)
                progress.update(bar, completed=done + 1)
                if as_json:
                    facts = {"event": "picture", "prompt_index": index, "image_index": event.image_index,
                             "file": str(path.resolve()), **event.settings}
                    typer.echo(json.dumps(facts, ensure_ascii=False))
                else:
                    progress.console.print(f"{path}  {event.prompt}", soft_wrap=True)
    seconds = round(time.monotonic() - began, 2)
    typer.echo(json.dumps({"event": "done", "pictures": total, "out": str(out.resolve()), "seconds": seconds}) if as_json
               else f"{total} picture{'s' * (total > 1)} in {seconds:.1f} s")


def parse_lora(text: str) -> dict[str, object]:
    r"""`style.safetensors:0.8,te=0.5,blocks=style only,start=0.2,end=0.9` -> the fields of a LoraChoice.

    The last colon counts only where a number follows (C:\loras\a is a path), a comma only before one of the four names.
    """
    name, *options = re.split(rf",(?=(?:{'|'.join(LORA_KEYS)})=)", text)
    file, colon, strength = name.rpartition(":")
    is_strength = bool(colon) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", strength) is not None
    path = Path(file if is_strength else name).expanduser()
    if not path.is_file():
        raise UserError(f"There is no LoRA file {path}.", "Write it as --lora FILE or --lora FILE:0.8.")
    fields = {LORA_KEYS[key]: value for key, _, value in (option.partition("=") for option in options)}
    return {"file": str(path), "strength": float(strength) if is_strength else 1.0, **fields}


def named_file(path: Path | None) -> str:
    return str(path.expanduser()) if path else ""


def parse_size(text: str) -> tuple[int | None, int | None]:
    """`768x512` -> (768, 512); "" -> the base's own size."""
    if not text:
        return None, None
    sides = re.fullmatch(r"(\d{1,5})\s*[xX×]\s*(\d{1,5})", text.strip())
    if not sides:
        raise UserError(f"{text!r} is not a size.", "Write it as --size 512x768 (width x height in px).")
    return int(sides[1]), int(sides[2])
