"""`sdlora draw`: pictures from the command line. Knows nothing about denoising."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from sdlora.cli.common import BaseOption, DownloadOption, JsonLinesOption, bars, check_pictures
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

QUOTED = 60  # characters of a prompt in a sentence about it
LORA_KEYS = {"te": "text_strength", "blocks": "blocks", "start": "start", "end": "end"}

Method = Annotated[str, typer.Option(
    help="How several LoRAs act: sum, switch, composite, or style-subject (give the style first)")]
SwitchEvery = Annotated[int, typer.Option(help="Steps until the next LoRA takes over (switch)")]
Sampler = Annotated[str, typer.Option(help="Such as 'DPM++ 2M Karras'; default: the base's own")]
Init = Annotated[Path | None, typer.Option(metavar="PICTURE", help="Begin from this picture")]
Mask = Annotated[Path | None, typer.Option(metavar="PICTURE", help="White where --init is redrawn")]
Strength = Annotated[float, typer.Option(help="How far --init is changed, up to 1")]
Negative = Annotated[str, typer.Option(help="Negative prompt: what to avoid")]
Size = Annotated[str, typer.Option(metavar="WxH", help="px; default: the base's own size")]
Steps = Annotated[int, typer.Option(help="Denoising steps")]
Guidance = Annotated[float, typer.Option(help="CFG scale: how closely the prompt is followed; 1: no guidance")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu")]


def register(app: typer.Typer) -> None:
    app.command("draw")(draw)


def draw(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw")] = None,
    prompts_file: Annotated[Path | None, typer.Option(
        help="A text file with one prompt a line; # begins a comment, --n --w --h --d --s --l are settings of a line")] = None,
    base: BaseOption = "mini",
    lora: Annotated[list[str] | None, typer.Option(
        metavar="FILE[:STRENGTH][,te=,blocks=,start=,end=]", help="A LoRA; may be given again. te: its strength in the text "
        "encoders; blocks: a preset such as 'style only', or a number per block; start, end: shares of the steps")] = None,
    method: Method = "sum",
    switch_every: SwitchEvery = 5,
    sampler: Sampler = "",
    init: Init = None,
    mask: Mask = None,
    strength: Strength = 0.6,
    negative: Negative = "",
    size: Size = "",
    seed: Annotated[int, typer.Option(help="Picture j of every prompt uses seed + j")] = 1,
    count: Annotated[int, typer.Option(help="Pictures per prompt")] = 1,
    steps: Steps = 20,
    guidance: Guidance = 5.0,
    out: Annotated[Path, typer.Option(help="Folder for the pictures")] = Path(),
    device: Device = "auto",
    download: DownloadOption = False,
    as_json: JsonLinesOption = False,
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
    jobs, problems = jobs_of(lines, shared)
    if not jobs:
        raise next(iter(problems.values()))
    print_notes([job.config for job in jobs])
    if sampler:
        samplers.official(sampler)  # a misspelt name is reported before the base is loaded
    check_pictures(out, [f"{job.index:03d}-{image:02d}.png" for job in jobs for image in range(count)], [init, mask])
    for index, problem in problems.items():
        typer.echo(str(problem), err=True)
        if as_json:
            typer.echo(json.dumps(failure({"prompt_index": index, "prompt": lines[index].prompt}, problem), ensure_ascii=False))
    if download:
        from sdlora.cli.bases import fetch
        fetch(base, ask=not as_json)
    if write_pictures(jobs, list(problems.values()), out, as_json):
        raise typer.Exit(MISTAKE)


def print_notes(configs: Sequence[DrawConfig]) -> None:
    """Print on stderr what in prompts and settings does not act."""
    texts = dict.fromkeys(text for config in configs for text in (*config.prompts, config.negative))
    late = [f"A LoRA takes over after {config.switch_every} steps, and there are {config.steps}: the others never act."
            for config in configs if config.method == "switch" and len(config.loras) > 1 and config.switch_every >= config.steps]
    for note in dict.fromkeys([*grammar.notes(*texts), *late]):
        typer.echo(note, err=True)


@dataclass(frozen=True)
class Job:
    """One prompt in its place among all, and how it is drawn. title: what it is called where it fails."""
    index: int
    prompt: str
    title: str
    config: DrawConfig

    @property
    def place(self) -> dict[str, Any]:
        return {"prompt_index": self.index, "prompt": self.prompt}


def jobs_of(lines: Sequence[Line], shared: dict[str, Any]) -> tuple[list[Job], dict[int, UserError]]:
    """Return every prompt with its settings, and {index: why} of those that cannot be drawn, say with an unknown LoRA."""
    from sdlora.library.lora_tags import with_tags  # the shelf opens pictures: nothing for --help

    jobs, problems = [], {}
    for index, line in enumerate(lines):
        title = f'The prompt "{clean_text(line.prompt, QUOTED)}" cannot be drawn. ' if len(lines) > 1 else ""
        title = f"Line {line.number} of the prompts: " if line.number else title
        try:
            config = with_tags(make(DrawConfig, shared | line.settings | {"prompts": (line.prompt,)}))
            for text in (*config.prompts, config.negative):
                grammar.parse(text)
            jobs.append(Job(index, line.prompt, title, config))
        except UserError as error:
            problems[index] = titled(title, error)
    return jobs, problems


def titled(title: str, error: UserError) -> UserError:
    return UserError(f"{title}{error.message}", error.hint)


def failure(place: dict[str, Any], problem: UserError) -> dict[str, Any]:
    """Return the JSON line about a picture that is not drawn. place: the prompt or cell that it belongs to."""
    return {"event": "failed", **place, "message": problem.message, "hint": problem.hint}


def draw_jobs(base: "Base", jobs: Sequence[Job]) -> "Iterator[tuple[Job, Preview | Picture | UserError]]":
    """Yield what is drawn for each job. Neighbours of equal settings are drawn together; a failure ends only its own."""
    from sdlora.draw import pipeline

    for _, group in groupby(jobs, lambda job: job.config.model_copy(update={"prompts": ()})):
        waiting = list(group)
        while waiting:
            config = waiting[0].config.model_copy(update={"prompts": tuple(job.config.prompts[0] for job in waiting)})
            drawn = 0
            try:
                for event in pipeline.draw(base, config):
                    yield waiting[event.prompt_index], event
                    drawn += isinstance(event, pipeline.Picture)
                break
            except DiskFull:
                raise
            except Exception as error:  # noqa: BLE001  one bad prompt costs its pictures only
                at = min(drawn // config.count, len(waiting) - 1)
                yield waiting[at], titled(waiting[at].title, logged(error))
                waiting = waiting[at + 1:]


def write_pictures(jobs: Sequence[Job], problems: list[UserError], out: Path, as_json: bool) -> int:
    """Draw these jobs, which share base and device, into `out`, and print a line for each picture as it is written.

    problems: of the prompts that cannot be drawn. They are printed again at the end; returns how many were not drawn.
    """
    from sdlora.base.load import load_base
    from sdlora.draw.infotext.picture import write_picture
    from sdlora.draw.pipeline import Picture

    began = time.monotonic()
    base = load_base(jobs[0].config.base, jobs[0].config.device)
    total, drawn, failed = sum(job.config.count for job in jobs), 0, []
    with bars_while_drawing(as_json) as progress:
        bar = progress.add_task(f"Drawing {counted(total, 'picture')}", total=total)
        for job, event in draw_jobs(base, jobs):
            if isinstance(event, UserError):
                failed.append(event)
                print_line(failure(job.place, event), str(event), progress, as_json)
            elif isinstance(event, Picture):
                path = out / f"{job.index:03d}-{event.image_index:02d}.png"
                write_picture(path, event.image, event.settings)
                drawn += 1
                progress.update(bar, completed=drawn)
                facts = {"event": "picture", "prompt_index": job.index, "image_index": event.image_index,
                         "file": str(path.resolve()), **event.settings}
                print_line(facts, f"{path}  {event.prompt}", progress, as_json)
            else:
                progress.update(bar, completed=drawn + event.step / event.steps)
    if failed and not drawn:
        raise failed[0]
    seconds, failed = round(time.monotonic() - began, 2), problems + failed
    done = {"event": "done", "pictures": drawn, "failed": len(failed), "out": str(out.resolve()), "seconds": seconds}
    not_drawn = f", {counted(len(failed), 'prompt')} could not be drawn:" if failed else ""
    typer.echo(json.dumps(done) if as_json else f"{counted(drawn, 'picture')} in {seconds:.1f} s{not_drawn}")
    for problem in failed:
        typer.echo(str(problem), err=True)
    return len(failed)


@contextmanager
def bars_while_drawing(hidden: bool) -> Iterator[Progress]:
    """Show progress bars and hold the lock of drawing: a training that runs beside waits, as it does for the page."""
    with hold(home() / DRAWING_LOCK, 10) or nullcontext(), bars(transient=True, disable=hidden) as progress:
        yield progress


def logged(error: Exception) -> UserError:
    """Return the sentence for an error that costs one picture; a bug is logged and gets its code."""
    return explained(error, home() / "logs" / "sdlora.log")


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def print_line(facts: dict[str, Any], text: str, progress: Progress, as_json: bool) -> None:
    """Print one line about a picture: JSON for programs, `text` for people."""
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
    else:
        progress.console.print(text, soft_wrap=True)


def parse_lora(text: str) -> dict[str, Any]:
    r"""Return the fields of a LoraChoice for `style.safetensors:0.8,te=0.5,blocks=style only,start=0.2,end=0.9`.

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
    """Return (768, 512) for `768x512`; (None, None), the base's own size, for ""."""
    if not text:
        return None, None
    sides = re.fullmatch(r"(\d{1,5})\s*[xX×]\s*(\d{1,5})", text.strip())
    if not sides:
        raise UserError(f"{text!r} is not a size.", "Write it as --size 512x768 (width x height in px).")
    return int(sides[1]), int(sides[2])
