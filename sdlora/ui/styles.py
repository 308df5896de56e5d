"""Which LoRA the artist means: a file of the shelf or a saved point of a run, known to the browser by an id only.

Knows nothing about drawing. Ids: "lora:<shelf id>", "point:<run id>:<step>".
"""

from dataclasses import dataclass
from pathlib import Path

from sdlora.base.catalog import BaseEntry, list_bases
from sdlora.errors import UserError
from sdlora.jobs import run as runs
from sdlora.library import search
from sdlora.ui import lists, words
from sdlora.ui.runs.strip import choosable, point_file
from sdlora.ui.validation import an_id

MENU = 300  # styles in a drop-down list


@dataclass(frozen=True)
class Style:
    """A LoRA to draw with: its file, its name, its trigger, the base it was made on (spec), prompts it was sampled with."""

    id: str
    name: str
    trigger: str
    file: Path
    base: str
    prompt: str


def find(style_id: object) -> Style:
    """The style with this id; raises UserError when it is none of ours or gone."""
    kind, _, rest = style_id.partition(":") if type(style_id) is str else ("", "", "")
    if kind == "lora":
        entry = search.find(an_id(rest, "style"))
        run = run_of(entry.run)
        base = run.config.base if run else base_for(entry.family, entry.name)
        return Style(style_id, entry.name, entry.trigger, entry.path, base, first_prompt(run, entry.trigger))
    run_id, _, step = rest.partition(":")
    if kind == "point" and step.isdecimal() and len(step) < 8:
        view = runs.view(an_id(run_id, "run"))
        if int(step) not in choosable(view):
            raise UserError(words.CHOOSE_FIRST.format(what="saved point"))
        return Style(
            style_id,
            point_name(view, int(step)),
            view.config.trigger,
            point_file(view, int(step)),
            view.config.base,
            first_prompt(view, view.config.trigger),
        )
    raise UserError(words.CHOOSE_FIRST.format(what="style"))


def run_of(run_id: str | None) -> runs.RunView | None:
    """The run a shelf file came from, while it is kept."""
    try:
        return runs.view(run_id) if run_id else None
    except UserError:
        return None


def base_for(family: str, name: str) -> str:
    """The first usable base of a family (spec); raises UserError when there is none."""
    base = next((base for base in list_bases() if base.family == family and not base.problem), None)
    if base is None:
        raise UserError(words.NO_BASE.format(name=name), words.NO_BASE_HINT)
    return base.spec


def base_entry(spec: str) -> BaseEntry | None:
    return next((base for base in list_bases() if base.spec == spec), None)


def point_name(view: runs.RunView, step: int) -> str:
    return view.name if view.state == "done" and step == view.step else words.STYLE_POINT.format(name=view.name, step=step)


def first_prompt(view: runs.RunView | None, trigger: str) -> str:
    """A prompt to begin with: the first sample prompt of the run, else the trigger."""
    return view.samples[0].prompt if view and view.samples else trigger


def menu(extra: str | None = None) -> list[tuple[str, str]]:
    """(title, id) of the newest styles on the shelf and of the one that was chosen; the gallery has them all."""
    choices = list(lists.shared(("menu",), newest))
    if extra and extra not in (known for _, known in choices):
        choices.insert(0, (find(extra).name, extra))
    return choices


def newest() -> list[tuple[str, str]]:
    entries = [entry for entry in search.list_loras(limit=MENU) if not entry.problem]
    return [(title, f"lora:{entry.id}") for title, entry in zip(search.titles(entries), entries, strict=True)]
