"""`sdlora draw`: pictures from the command line. Knows nothing about denoising."""

import json
import re
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from sdlora.cli.files import check_pictures
from sdlora.config import DrawConfig, make
from sdlora.draw import samplers
from sdlora.errors import UserError
from sdlora.jobs.execute import DRAWING_LOCK
from sdlora.jobs.lock import hold
from sdlora.storage import home

MAX_PROMPTS_BYTES = 4 << 20
LORA_KEYS = {"te": "text_strength", "blocks": "blocks", "start": "start", "end": "end"}


def register(app: typer.Typer) -> None:
    app.command("draw")(draw)


def draw(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw")] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="A text file with one prompt a line")] = None,
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

    wanted = [*(prompts or []), *(read_prompts(prompts_file) if prompts_file else [])]
    if not wanted:
        raise UserError("There is nothing to draw.", 'Give a prompt: sdlora draw "a red house" --out pictures')
    width, height = parse_size(size)
    config = with_tags(make(DrawConfig, {
        "prompts": wanted, "negative": negative, "base": base, "loras": [parse_lora(text) for text in lora or []],
        "method": method, "switch_every": switch_every, "sampler": sampler, "init": named_file(init), "mask": named_file(mask),
        "init_strength": strength, "seed": seed, "count": count, "steps": steps, "guidance": guidance, "width": width,
        "height": height, "device": device}))
    if sampler:
        samplers.official(sampler)  # a misspelt name is said before the base is loaded
    check_pictures(out, [f"{prompt:03d}-{image:02d}.png" for prompt in range(len(config.prompts)) for image in range(count)],
                   [init, mask])
    if download:
        from sdlora.cli.bases import fetch
        fetch(base, ask=not as_json)
    write_pictures(config, out, as_json)


def write_pictures(config: DrawConfig, out: Path, as_json: bool) -> None:
    """Draw all of `config` into `out`, telling of each picture as it is written."""
    from sdlora.base.load import load_base
    from sdlora.draw import infotext, pipeline

    began = time.monotonic()
    loaded = load_base(config.base, config.device)
    total = len(config.prompts) * config.count
    # a training that runs beside waits meanwhile, as it does for the page
    with hold(home() / DRAWING_LOCK, 10) or nullcontext(), Progress(transient=True, disable=as_json) as progress:
        bar = progress.add_task(f"Drawing {total} picture{'s' * (total > 1)}", total=total)
        for event in pipeline.draw(loaded, config):
            done = event.prompt_index * config.count + event.image_index
            if isinstance(event, pipeline.Preview):
                progress.update(bar, completed=done + event.step / event.steps)
                continue
            path = out / f"{event.prompt_index:03d}-{event.image_index:02d}.png"
            infotext.write_picture(path, event.image, event.settings)
            progress.update(bar, completed=done + 1)
            if as_json:
                facts = {"event": "picture", "prompt_index": event.prompt_index, "image_index": event.image_index,
                         "file": str(path.resolve()), **event.settings}
                typer.echo(json.dumps(facts, ensure_ascii=False))
            else:
                progress.console.print(f"{path}  {event.prompt}", markup=False, highlight=False, soft_wrap=True)
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


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines are left out."""
    try:
        if path.stat().st_size > MAX_PROMPTS_BYTES:
            raise UserError(f"{path.name} is larger than 4 MB.", "Give a text file with one prompt a line.")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} could not be read ({error}).", "Give a text file with one prompt a line.") from error
    return [line.strip() for line in lines if line.strip()]
