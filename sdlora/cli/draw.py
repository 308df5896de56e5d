"""`sdlora draw`: pictures from the command line. Knows nothing about denoising."""

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from sdlora.cli.files import check_pictures
from sdlora.cli.progress import bars
from sdlora.config import DrawConfig, make
from sdlora.draw import grammar, samplers
from sdlora.draw.prompts_file import Line, read_prompts
from sdlora.errors import DiskFull, UserError
from sdlora.jobs.execute import DRAWING_LOCK, MISTAKE, explained
from sdlora.jobs.lock import hold
from sdlora.storage import clean_text, home

if TYPE_CHECKING:
    from sdlora.base.load import Base
    from sdlora.draw.pipeline import Picture, Preview

SHOWN = 60  # letters of a prompt in a sentence about it
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
    make(DrawConfig, shared)  # what is wrong for all prompts is no prompt's fault
    asked = drawings(lines, shared)
    bad = [each for each in asked if each.problem]
    if len(bad) == len(asked):
        raise bad[0].problem
    good = [each for each in asked if each.config]
    say_notes(each.config for each in good)
    if sampler:
        samplers.official(sampler)  # a misspelt name is said before the base is loaded
    check_pictures(out, [f"{each.index:03d}-{image:02d}.png" for each in good for image in range(count)], [init, mask])
    for each in bad:
        typer.echo(str(each.problem), err=True)
        if as_json:
            typer.echo(json.dumps(failure(each, each.problem), ensure_ascii=False))
    if download:
        from sdlora.cli.bases import fetch
        fetch(base, ask=not as_json)
    if write_pictures(good, [each.problem for each in bad], out, as_json):
        raise typer.Exit(MISTAKE)


def say_notes(configs: Iterable[DrawConfig]) -> None:
    """Tell on stderr what in prompts and settings does not act."""
    configs = list(configs)
    texts = list(dict.fromkeys(text for config in configs for text in (*config.prompts, config.negative)))
    late = [f"A LoRA takes over after {config.switch_every} steps, and there are {config.steps}: the others never act."
            for config in configs if config.method == "switch" and len(config.loras) > 1 and config.switch_every >= config.steps]
    for note in dict.fromkeys([*grammar.notes(*texts), *late]):
        typer.echo(note, err=True)


@dataclass(frozen=True)
class Asked:
    """One prompt in its place among all: how it is drawn, or why it cannot be. name: what it is called where it fails."""
    index: int
    prompt: str
    name: str
    config: DrawConfig | None = None
    problem: UserError | None = None

    def named(self, error: UserError) -> UserError:
        """The error with the prompt that it belongs to."""
        return UserError(f"{self.name}{error.message}", error.hint)


def drawings(lines: list[Line], shared: dict[str, object]) -> list[Asked]:
    """Every prompt with its settings; one that names an unknown style, say, or is no prompt has a problem instead."""
    from sdlora.library.lora_tags import with_tags  # the shelf opens pictures: nothing for --help

    found = []
    for index, line in enumerate(lines):
        name = f'The prompt "{clean_text(line.prompt, SHOWN)}" cannot be drawn. ' if len(lines) > 1 else ""
        each = Asked(index, line.prompt, f"Line {line.number} of the prompts: " if line.number else name)
        try:
            config = with_tags(make(DrawConfig, shared | line.settings | {"prompts": (line.prompt,)}))
            for text in (*config.prompts, config.negative):
                grammar.parse(text)
            found.append(replace(each, config=config))
        except UserError as error:
            found.append(replace(each, problem=each.named(error)))
    return found


def failure(each: Asked, problem: UserError) -> dict[str, object]:
    """The line about a prompt that is not drawn, for a program."""
    return {"event": "failed", "prompt_index": each.index, "prompt": each.prompt, "message": problem.message,
            "hint": problem.hint}


def every_picture(loaded: "Base", asked: list[Asked]) -> "Iterator[tuple[Asked, Preview | Picture | UserError]]":
    """What is drawn for each prompt. Neighbours of equal settings are drawn together; after one that fails the next goes on."""
    from sdlora.draw import pipeline

    for _, group in groupby(asked, lambda each: each.config.model_copy(update={"prompts": ()})):
        waiting = list(group)
        while waiting:
            config = waiting[0].config.model_copy(update={"prompts": tuple(each.config.prompts[0] for each in waiting)})
            done = 0
            try:
                for event in pipeline.draw(loaded, config):
                    yield waiting[event.prompt_index], event
                    done += hasattr(event, "settings")
                break
            except DiskFull:
                raise
            except Exception as error:  # noqa: BLE001  one bad prompt costs its pictures only
                at = min(done // config.count, len(waiting) - 1)
                yield waiting[at], waiting[at].named(explained(error, home() / "logs" / "sdlora.log"))
                waiting = waiting[at + 1:]


def write_pictures(asked: list[Asked], problems: list[UserError], out: Path, as_json: bool) -> int:
    """Draw these prompts, which share base and device, into `out`, telling of each picture as it is written.

    problems: of the prompts that are known not to be drawn. They are told again at the end; returns how many were not drawn.
    """
    from sdlora.base.load import load_base
    from sdlora.draw.infotext.picture import write_picture

    began = time.monotonic()
    loaded = load_base(asked[0].config.base, asked[0].config.device)
    total, drawn, failed = sum(each.config.count for each in asked), 0, []
    # a training that runs beside waits meanwhile, as it does for the page
    with hold(home() / DRAWING_LOCK, 10) or nullcontext(), bars(transient=True, disable=as_json) as progress:
        bar = progress.add_task(f"Drawing {counted(total, 'picture')}", total=total)
        for each, event in every_picture(loaded, asked):
            if isinstance(event, UserError):
                failed.append(event)
                tell(failure(each, event), str(event), progress, as_json)
            elif not hasattr(event, "settings"):
                progress.update(bar, completed=drawn + event.step / event.steps)
            else:
                path = out / f"{each.index:03d}-{event.image_index:02d}.png"
                write_picture(path, event.image, event.settings)
                drawn += 1
                progress.update(bar, completed=drawn)
                facts = {"event": "picture", "prompt_index": each.index, "image_index": event.image_index,
                         "file": str(path.resolve()), **event.settings}
                tell(facts, f"{path}  {event.prompt}", progress, as_json)
    if failed and not drawn:
        raise failed[0]
    seconds, failed = round(time.monotonic() - began, 2), problems + failed
    done = {"event": "done", "pictures": drawn, "failed": len(failed), "out": str(out.resolve()), "seconds": seconds}
    not_drawn = f", {counted(len(failed), 'prompt')} could not be drawn:" if failed else ""
    typer.echo(json.dumps(done) if as_json else f"{counted(drawn, 'picture')} in {seconds:.1f} s{not_drawn}")
    for problem in failed:
        typer.echo(str(problem), err=True)
    return len(failed)


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def tell(facts: dict[str, object], words: str, progress: Progress, as_json: bool) -> None:
    """One line about a picture, for a program or for a person."""
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
    else:
        progress.console.print(words, soft_wrap=True)


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
