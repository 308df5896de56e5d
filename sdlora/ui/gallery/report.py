"""The report of one LoRA file, what the artist writes about it, and its download in another format.

Knows nothing about how a file is read: the drawing process reports, this module says it in the artist's words.
"""

from pathlib import Path
from typing import Any

from sdlora.base.catalog import list_bases
from sdlora.errors import UserError
from sdlora.families import family_title
from sdlora.jobs import questions
from sdlora.library import edit, search
from sdlora.storage import confine
from sdlora.ui import words
from sdlora.ui.gallery.rpc import Question, server_functions
from sdlora.ui.validation import an_id, guarded_server, mapping, one_of, text

MOST_LISTED = 200


def asked(data: Any) -> dict:
    """A style id -> the payload of the question for its report."""
    entry = search.find(an_id(data, "LoRA"))
    return {"id": entry.id, "file": str(entry.path)}


def told(answer: questions.Answer) -> dict:
    """The report as gallery.js shows it: rows of facts, a bar per block, problems, what was left out, fields to fill."""
    found = answer.result
    entry = search.find(found["id"])
    return {
        "rows": rows(found),
        "bars": bars(found.get("blocks") or {}),
        "bars_title": words.REPORT_BARS,
        "problems": [*found["problems"], *twins(entry)],
        "ignored": [f"{each['name']}: {each['reason']}" for each in found["ignored"][:MOST_LISTED]],
        "ignored_title": words.REPORT_IGNORED.format(count=len(found["ignored"])),
        "fields": facts_of(entry),
        "about": about(found["metadata"]),
        "about_title": words.ABOUT_TITLE,
        "private": words.PRIVATE.format(count=len(found["private"])) if found["private"] else "",
        "ways": [{"key": key, "label": label} for key, label in words.DOWNLOADS.items()],
    }


def twins(entry: search.LoraEntry) -> list[str]:
    """A sentence for every other file of the shelf that holds the very same tensors."""
    same = next((group for group in search.duplicates() if entry.id in {each.id for each in group}), [])
    return [words.TWIN.format(name=each.name) for each in same if each.id != entry.id]


def rows(found: dict) -> list[tuple[str, str]]:
    """Facts in the order an artist asks for them."""
    family = found["family"]
    families = [family] if isinstance(family, str) else list(family)
    parts = ", ".join(
        words.REPORT_PART.format(part=part.upper(), **count) for part, count in found["parts"].items() if count["modules"]
    )
    acting = words.REPORT_OF.format(matched=found["matched"], modules=found["modules"], parts=parts)
    listed = [
        (words.REPORT_MATCHED, acting),
        (words.REPORT_FAMILY, ", ".join(family_title(each) for each in families) or "–"),
        (words.REPORT_KIND, f"{found['kind']} · {found['dialect']}"),
        (words.REPORT_RANK, written(found.get("ranks") or found["rank"])),
        (words.REPORT_ALPHA, written(found["alpha"])),
        (words.REPORT_SCALE, written(found["effective_scale"])),
        (words.REPORT_CHANGE, f"{found['push'] or 0:.1%}"),
        (words.REPORT_SIZE, words.MEGABYTES.format(size=found["file_bytes"] / 1e6)),
    ]
    return [(name, value) for name, value in listed if value]


def written(value: Any) -> str:
    """A number or several as text; a long row by its ends."""
    numbers = value if isinstance(value, list) else [value]
    said = [f"{each:g}" for each in numbers if isinstance(each, int | float)]
    return f"{said[0]} … {said[-1]}" if len(said) > 4 else ", ".join(said)


def bars(blocks: dict[str, dict]) -> list[dict]:
    """The size of the change per block relative to its weights, the highest bar full."""
    pushes = {name: block["push"] or 0 for name, block in blocks.items()}
    highest = max(pushes.values(), default=0) or 1
    return [{"name": name, "text": f"{push:.1%}", "percent": round(100 * push / highest, 1)} for name, push in pushes.items()]


def facts_of(entry: search.LoraEntry) -> list[dict]:
    """What the artist may write about a file."""
    known = {"name": entry.name, "trigger": entry.trigger, "tags": ", ".join(entry.tags), "notes": entry.notes}
    return [
        {"key": key, "label": label, "value": known[key], "most": 80 if key == "name" else 2000, "long": key == "notes"}
        for key, label in words.FACTS.items()
    ]


def about(metadata: dict[str, str]) -> list[dict]:
    """What may go out with a file that is given away, as it says now."""
    keys = {"author": "modelspec.author", "licence": "modelspec.license", "consent": "sdlora_consent", "note": "sdlora_note"}
    return [
        {"key": key, "label": label, "value": metadata.get(keys[key], ""), "most": 2000, "long": key == "note"}
        for key, label in words.ABOUT_FILE.items()
    ]


@guarded_server
def keep_facts(data: Any) -> dict:
    """Called by gallery.js: [style id, {field: text}] -> {} once they are kept."""
    style, facts = data if isinstance(data, list) and len(data) == 2 else (None, None)
    entry = search.find(an_id(style, "LoRA"))
    said = {key: text(mapping(facts).get(key)) for key in words.FACTS if key in mapping(facts)}
    if not said.get("name", entry.name):
        raise UserError(words.NAME_EMPTY)
    if said.get("name", entry.name) != entry.name:
        edit.annotate(entry.id, name=said["name"])
    tags = tuple(tag.strip() for tag in said.get("tags", "").split(",") if tag.strip())
    edit.annotate(entry.id, notes=said.get("notes", ""), tags=tags, trigger=said.get("trigger", entry.trigger))
    return {}


def conversion(data: Any) -> dict:
    """[style id, way, what may go out with it] -> the payload of the question for a file in another form."""
    style, way, said = data if isinstance(data, list) and len(data) == 3 else (None, None, None)
    entry = search.find(an_id(style, "LoRA"))
    return {
        "file": str(entry.path),
        "name": entry.name,
        "base": next((base.spec for base in list_bases() if base.family == entry.family and not base.problem), ""),
        "way": one_of(way, words.DOWNLOADS),
        "about": {key: text(mapping(said).get(key)) for key in words.ABOUT_FILE},
        "cover": str(entry.thumbnail) if entry.thumbnail else "",
    }


def converted(answer: questions.Answer) -> dict:
    """The file is there: the browser asks for it by the question's id."""
    return {"made": answer.id, "note": answer.result.get("note", "")}


def made(ask_id: Any) -> Path:
    """The file that was made for a question. Raises UserError."""
    answer = questions.view(an_id(ask_id, "file"))
    if answer.kind != "convert" or answer.state != "done":
        raise UserError(words.CHOOSE_FIRST.format(what="file"))
    return confine(answer.folder, str(answer.result["file"]))


QUESTIONS = {"report": Question(asked, told), "convert": Question(conversion, converted)}
SERVER = [keep_facts, *server_functions(QUESTIONS)]
