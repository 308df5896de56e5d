"""`sdlora check train resume plan runs worker`: training from the command line, in this very process.

`train` makes a run folder, executes it and shows its events.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdlora.cli.common import BaseOption, DownloadOption, JsonLinesOption, check_out, print_report
from sdlora.errors import DiskFull, UserError
from sdlora.families import FAMILIES

if TYPE_CHECKING:
    from sdlora.config import TrainConfig
    from sdlora.dataset.folder import Dataset
    from sdlora.train.plan import Plan

Images = Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder or zip of pictures, captions in text files beside them")]
Preset = Annotated[str, typer.Option(help="quick, normal or thorough")]
Name = Annotated[str | None, typer.Option(help="Name of the style; default: the folder's name")]
Trigger = Annotated[str | None, typer.Option(help="The trigger word: it calls the style in a prompt")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, e.g. rank=8; may be repeated")]
Seed = Annotated[int | None, typer.Option(help="Seed of the training run")]
Device = Annotated[str | None, typer.Option(help="auto, cuda, mps or cpu")]


def register(app: typer.Typer) -> None:
    for command in (check, train, resume, plan, runs, worker):
        app.command()(command)
    app.command("run", hidden=True)(run_folder)
    app.command("drawer", hidden=True)(drawer)


def check(
    images: Annotated[Path, typer.Argument(help="Folder or zip of pictures and captions")],
    trigger: Annotated[str, typer.Option(help="The word that calls the style")] = "",
    default_caption: Annotated[str, typer.Option(help="Caption of pictures that have none")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text")] = False,
) -> None:
    """Show what would be kept, skipped and cropped, and the captions that training would read."""
    from sdlora.dataset.crop import crop_box, cut_share
    from sdlora.dataset.folder import read_dataset

    dataset = read_dataset(images, trigger=trigger, default_caption=default_caption)
    kept = [{"name": e.name, "path": str(e.path), "caption": e.caption, "repeats": e.repeats, "digest": e.digest,
             "width": e.width, "height": e.height, "crop": list(crop_box(e.width, e.height)),
             "cut": round(cut_share(e.width, e.height), 4)} for e in dataset.examples]
    skipped = [{"name": s.name, "reason": s.reason} for s in dataset.skipped]
    lines = [f"Kept: {len(kept)}"]
    for entry in kept:
        left, top, right, bottom = entry["crop"]
        cut = f", {entry['cut']:.0%} cut off: ({left}, {top}) to ({right}, {bottom}) is used" if entry["cut"] else ""
        times = f", {entry['repeats']} times an epoch" if entry["repeats"] > 1 else ""
        lines += [f"  {entry['name']}  {entry['width']} x {entry['height']} px{cut}{times}",
                  f"    {entry['caption'] or '(no caption)'}"]
    if skipped:
        lines += [f"Skipped: {len(skipped)}", *(f"  {entry['reason']}" for entry in skipped)]
    lines += [f"Note: {note}" for note in dataset.notes]
    print_report({"kept": kept, "skipped": skipped, "notes": list(dataset.notes)}, lines, as_json)


def train(
    images: Images, base: BaseOption = "mini", preset: Preset = "normal", name: Name = None, trigger: Trigger = None,
    out: Annotated[Path | None, typer.Option(help="The LoRA file to write; default: onto the shelf of the studio")] = None,
    sets: Sets = None, seed: Seed = None, device: Device = None, download: DownloadOption = False,
    as_json: JsonLinesOption = False,
) -> None:
    """Train a LoRA on the style of your pictures. Ctrl-C saves; `sdlora resume` resumes.

    A file of ours that --out already names is replaced, whole, at the very end.
    """
    from sdlora.jobs.run import create_run
    from sdlora.storage import home
    from sdlora.train.plan import refuse_full_disk

    if download:
        from sdlora.cli.bases import fetch
        fetch(base, ask=not as_json)
    config, dataset, _ = read_inputs(images, base, preset, sets or [], name=name, trigger=trigger, seed=seed, device=device)
    if out is not None:
        check_out(out, [images])
    refuse_full_disk(dry_run(config, dataset), home())
    foreground(create_run(config, images, out), as_json)


def resume(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, or how it begins; see `sdlora runs`")],
    as_json: JsonLinesOption = False,
) -> None:
    """Resume a stopped run from its last checkpoint. Writes the file that --out named."""
    from sdlora.jobs.run import clear_commands, list_runs
    from sdlora.jobs.table import Table

    if not run.strip():
        raise UserError("Which run?", "Give its id, or how it begins. See them with: sdlora runs")
    every = list_runs()
    found = [seen for seen in every if seen.id == run] or [seen for seen in every if seen.id.startswith(run)]
    if len(found) != 1:
        raise UserError(f"{'There is no run' if not found else 'Several runs begin with'} {run}.", "See them with: sdlora runs")
    seen = found[0]
    if seen.state == "done":
        raise UserError(f"{seen.id} is finished: {seen.file}", "Start a new run to train further.")
    if seen.state == "running":
        raise UserError(f"{seen.id} is running already.", "Watch it with: sdlora runs")
    # one that waits for the worker is taken over by this process
    Table().cancel("train", seen.id, "stopped")
    clear_commands(seen.folder)
    foreground(seen.folder, as_json)


def plan(
    images: Images, base: BaseOption = "mini", preset: Preset = "normal", name: Name = None, trigger: Trigger = None,
    sets: Sets = None, seed: Seed = None, device: Device = None, as_json: JsonLinesOption = False,
) -> None:
    """Show what training would take: steps, minutes, memory. Nothing is trained."""
    from dataclasses import asdict

    config, dataset, family = read_inputs(images, base, preset, sets or [], name=name, trigger=trigger, seed=seed, device=device)
    made = dry_run(config, dataset)
    if note := uncarried(config, dataset, family):
        made = replace(made, notes=(*made.notes, note))
    report = {**asdict(made), "pictures": len(dataset.examples), "skipped": len(dataset.skipped), "base": config.base,
              "family": family, "config": config.model_dump(mode="json")}
    lines = [f"{len(dataset.examples)} pictures ({len(dataset.skipped)} skipped), {made.steps} steps on {config.base}",
             f"about {made.minutes:g} minutes, {made.memory_mb} MB of memory, {made.disk_mb} MB of disk",
             f"{made.prompts_per_sample} sample pictures at steps {', '.join(map(str, made.samples))}"]
    print_report(report, [*lines, *made.notes, *dataset.notes], as_json)


def runs(as_json: Annotated[bool, typer.Option("--json", help="A JSON list")] = False) -> None:
    """List all runs, newest first, with their state: queued, running, stopped, done or failed."""
    from sdlora.jobs.run import list_runs

    found = [{"id": seen.id, "name": seen.name, "state": seen.state, "step": seen.step, "steps": seen.steps,
              "seconds_left": seen.seconds_left, "paused": seen.paused, "base": seen.config.base, "created": seen.created,
              "images": seen.images, "out": seen.out, "file": seen.file, "problem": seen.problem} for seen in list_runs()]
    lines = [f"{seen['id']:<44} {seen['state']:<8} {seen['step']:>6}/{seen['steps']:<6} {seen['file'] or seen['problem']}"
             for seen in found]
    print_report(found, lines or ["There are no runs yet. Start one with: sdlora train PICTURES"], as_json)


def worker(
    linger: Annotated[float, typer.Option(help="Seconds to stay when no page is open and nothing is to do")] = 60.0,
) -> None:
    """Train what the page queued. app.py starts one by itself."""
    from sdlora.jobs.worker import work

    raise typer.Exit(work(linger_seconds=linger))


def run_folder(folder: Path, fence: Annotated[int, typer.Option(help="The claim this process works under")] = 0) -> None:
    """Train the run of a folder: the one run command, which workers start."""
    from sdlora.jobs.execute import execute

    raise typer.Exit(execute(folder, fence))


def drawer() -> None:
    """Serve drawings and questions: the resident process, which the worker starts."""
    from sdlora.jobs.drawer import serve

    raise typer.Exit(serve())


def read_inputs(images: Path, base: str, preset: str, sets: list[str], **chosen: object) -> "tuple[TrainConfig, Dataset, str]":
    """Return (settings, pictures, base family) of a run; everything that can be wrong is found here, before torch is loaded.

    `chosen` holds the settings that have flags of their own; those that are not None win over --set.
    """
    from sdlora.base import catalog
    from sdlora.config import from_preset
    from sdlora.dataset.folder import read_dataset
    from sdlora.parsing import parse_sets
    from sdlora.storage import MAX_NAME, clean_text

    values = parse_sets(sets)
    for key in {"base", "preset"} & set(values):
        raise UserError(f"The {key} is not chosen with --set.", f"Write --{key} {values[key]}")
    values |= {key: clean_text(value) if isinstance(value, str) else value for key, value in chosen.items() if value is not None}
    values.setdefault("name", clean_text(images.absolute().stem.replace("-", " ").replace("_", " "), MAX_NAME) or "My style")
    found = catalog.resolve(base)
    family = catalog.read_family(found).key
    # a run may be resumed from another folder: paths are absolute
    values["base"] = str(found) if base != "mini" and Path(base).expanduser().exists() else base
    side = from_preset(preset, family, 1, **values).resolution or FAMILIES[family].resolution
    dataset = read_dataset(images, trigger=str(values.get("trigger", "")), default_caption=str(values.get("default_caption", "")),
                           side=side)
    return from_preset(preset, family, len(dataset.examples), **values), dataset, family


def dry_run(config: "TrainConfig", dataset: "Dataset") -> "Plan":
    """Return the plan of a run on the device it will probably get (whether a card works is only known with torch)."""
    from sdlora.base import catalog
    from sdlora.base.words import words_note
    from sdlora.jobs.machine import likely_device
    from sdlora.train.plan import plan as make_plan

    family = catalog.read_family(catalog.resolve(config.base)).key
    made = make_plan(config, len(dataset.examples), family, device=likely_device(config.device))
    note = words_note(config.base, [example.caption for example in dataset.examples], config.trigger)
    return replace(made, notes=(*made.notes, note)) if note else made


def uncarried(config: "TrainConfig", dataset: "Dataset", family: str) -> str | None:
    """Return a sentence when the embedded base cannot carry the pictures. Loads torch, for that base alone."""
    if family != "mini":
        return None
    from sdlora.base.load import load_base
    from sdlora.train.carry import carry_note

    base = load_base(config.base, "cpu", parts=("vae",))
    return carry_note(base, dataset.examples, config.resolution or base.resolution)


def foreground(folder: Path, as_json: bool) -> None:
    """Execute a run in this process and show it; exit with the run's exit code."""
    from sdlora.cli.progress import JsonLines, RunProgress
    from sdlora.jobs.execute import STOPPED, execute
    from sdlora.jobs.run import view

    seen = view(folder)
    with (JsonLines if as_json else RunProgress)(seen) as show:
        code = execute(folder, on_event=show)
    try:
        ended = view(folder)
    except DiskFull as full:  # what was saved is whole: the exit code of the run stands
        typer.echo(f"{full.message}\n{full.hint}", err=True)
        raise typer.Exit(code) from full
    if ended.problem:
        typer.echo("\n".join(filter(None, (ended.problem, ended.hint))), err=True)
    if code == STOPPED:
        typer.echo(f"Saved at step {ended.step} of {ended.steps}. Resume it with: sdlora resume {ended.id}", err=True)
    raise typer.Exit(code)
