"""Which LoRA the artist chose: a file of the shelf or a checkpoint of a run, known to the browser by an id only.

Ids: "lora:<shelf id>", "point:<run id>:<step>".
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlora.errors import UserError
from sdlora.jobs import run as runs
from sdlora.library import search
from sdlora.ui import polling, words
from sdlora.ui.studio import bases
from sdlora.ui.validation import an_id

MENU = 300  # LoRAs in a drop-down list


@dataclass(frozen=True)
class Lora:
    """A LoRA to draw with. base: the spec of the base model it was made on. prompt: one to begin with."""

    id: str
    name: str
    trigger: str
    file: Path
    base: str
    prompt: str


def find(lora_id: Any) -> Lora:
    """Return the LoRA with this id; raise UserError when it is none of ours or gone."""
    kind, _, rest = lora_id.partition(":") if type(lora_id) is str else ("", "", "")
    if kind == "lora":
        entry = search.find(an_id(rest, "LoRA"))
        run = run_of(entry.run)
        base = run.config.base if run else base_for(entry.family, entry.name)
        return Lora(lora_id, entry.name, entry.trigger, entry.path, base, first_prompt(run, entry.trigger))
    run_id, _, step = rest.partition(":")
    if kind == "point" and step.isdecimal() and len(step) < 8:
        run = runs.view(an_id(run_id, "run"))
        if int(step) not in run.usable_steps:
            raise UserError(words.CHOOSE_FIRST.format(what="checkpoint"))
        name = run.name if run.state == "done" and int(step) == run.step else words.LORA_AT_STEP.format(name=run.name, step=step)
        trigger = run.config.trigger
        return Lora(lora_id, name, trigger, runs.lora_file(run, int(step)), run.config.base, first_prompt(run, trigger))
    raise UserError(words.CHOOSE_FIRST.format(what="LoRA"))


def run_of(run_id: str | None) -> runs.RunView | None:
    """Return the run a shelf file came from, while it is kept."""
    try:
        return runs.view(run_id) if run_id else None
    except UserError:
        return None


def base_for(family: str, name: str) -> str:
    """Return the first usable base model of a family (spec); raise UserError when there is none."""
    base = bases.of_family(family)
    if base is None:
        raise UserError(words.NO_BASE.format(name=name), words.NO_BASE_HINT)
    return base.spec


def first_prompt(run: runs.RunView | None, trigger: str) -> str:
    """Return a prompt to begin with: the first sample prompt of the run, else the trigger."""
    return run.samples[0].prompt if run and run.samples else trigger


def menu(extra: str | None = None) -> list[tuple[str, str]]:
    """Return (title, id) of the newest LoRAs on the shelf and of `extra`; the gallery has them all."""
    choices = list(polling.shared_list(("menu",), newest))
    if extra and extra not in (known for _, known in choices):
        choices.insert(0, (find(extra).name, extra))
    return choices


def newest() -> list[tuple[str, str]]:
    entries = [entry for entry in search.list_loras(limit=MENU) if not entry.problem]
    return [(title, f"lora:{entry.id}") for title, entry in zip(search.titles(entries), entries, strict=True)]
