"""The report of one LoRA file, what the artist writes about it, and its download in another format.

Knows nothing about how a file is read: the drawing process reports, this module says it in the artist's words.
"""

from pathlib import Path
from typing import Any

from sdlora.errors import UserError
from sdlora.families import family_title
from sdlora.jobs import questions
from sdlora.library import edit, search
from sdlora.storage import confine
from sdlora.ui import words
from sdlora.ui.rpc import Question, server_functions
from sdlora.ui.studio import bases
from sdlora.ui.validation import an_id, guarded_server, mapping, one_of, text

MOST_LISTED = 200


def report_payload(data: Any) -> dict:
    """Return the payload of the question for the report of the LoRA with this id."""
    entry = search.find(an_id(data, "LoRA"))
    return {"id": entry.id, "file": str(entry.path)}


def report_data(answer: questions.Answer) -> dict:
    """Return the report as gallery.js shows it: rows of facts, a bar per block, problems, what was left out, fields to fill."""
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
    """Return a sentence for every other file of the shelf that holds the very same tensors."""
    same = next((group for group in search.duplicates() if entry.id in {each.id for each in group}), [])
    return [words.TWIN.format(name=each.name) for each in same if each.id != entry.id]


def rows(found: dict) -> list[tuple[str, str]]:
    """Return (label, value) of each fact, in the order an artist asks for them."""
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
        (words.REPORT_RANK, number_text(found.get("ranks") or found["rank"])),
        (words.REPORT_ALPHA, number_text(found["alpha"])),
        (words.REPORT_SCALE, number_text(found["effective_scale"])),
        (words.REPORT_CHANGE, f"{found['push'] or 0:.1%}"),
        (words.REPORT_SIZE, words.MEGABYTES.format(size=found["file_bytes"] / 1e6)),
    ]
    return [(name, value) for name, value in listed if value]


def number_text(value: Any) -> str:
    """Return a number or several as text; a long row by its ends."""
    numbers = value if isinstance(value, list) else [value]
    texts = [f"{each:g}" for each in numbers if isinstance(each, int | float)]
    return f"{texts[0]} … {texts[-1]}" if len(texts) > 4 else ", ".join(texts)


def bars(blocks: dict[str, dict]) -> list[dict]:
    """Return the change of each block relative to its weights, the highest bar full."""
    changes = {name: block["push"] or 0 for name, block in blocks.items()}
    highest = max(changes.values(), default=0) or 1
    return [{"name": name, "text": f"{each:.1%}", "percent": round(100 * each / highest, 1)} for name, each in changes.items()]


def facts_of(entry: search.LoraEntry) -> list[dict]:
    """Return the fields of what the artist may write about a file."""
    known = {"name": entry.name, "trigger": entry.trigger, "tags": ", ".join(entry.tags), "notes": entry.notes}
    return [
        {"key": key, "label": label, "value": known[key], "most": 80 if key == "name" else 2000, "long": key == "notes"}
        for key, label in words.FACTS.items()
    ]


def about(metadata: dict[str, str]) -> list[dict]:
    """Return the fields of what may go out with a file that is given away, as it says now."""
    keys = {"author": "modelspec.author", "licence": "modelspec.license", "consent": "sdlora_consent", "note": "sdlora_note"}
    return [
        {"key": key, "label": label, "value": metadata.get(keys[key], ""), "most": 2000, "long": key == "note"}
        for key, label in words.ABOUT_FILE.items()
    ]


@guarded_server
def save_facts(data: Any) -> dict:
    """Save what the artist wrote, for gallery.js: [id, {field: text}] -> {}."""
    lora, facts = data if isinstance(data, list) and len(data) == 2 else (None, None)
    entry = search.find(an_id(lora, "LoRA"))
    written = {key: text(mapping(facts).get(key)) for key in words.FACTS if key in mapping(facts)}
    if not written.get("name", entry.name):
        raise UserError(words.NAME_EMPTY)
    if written.get("name", entry.name) != entry.name:
        edit.annotate(entry.id, name=written["name"])
    tags = tuple(tag.strip() for tag in written.get("tags", "").split(",") if tag.strip())
    edit.annotate(entry.id, notes=written.get("notes", ""), tags=tags, trigger=written.get("trigger", entry.trigger))
    return {}


def convert_payload(data: Any) -> dict:
    """Return the payload of the question for a file in another format, from [id, way, what may go out with it]."""
    lora, way, about = data if isinstance(data, list) and len(data) == 3 else (None, None, None)
    entry = search.find(an_id(lora, "LoRA"))
    base = bases.of_family(entry.family)
    return {
        "file": str(entry.path),
        "name": entry.name,
        "base": base.spec if base else "",
        "way": one_of(way, words.DOWNLOADS),
        "about": {key: text(mapping(about).get(key)) for key in words.ABOUT_FILE},
        "cover": str(entry.thumbnail) if entry.thumbnail else "",
    }


def convert_data(answer: questions.Answer) -> dict:
    """Return the id by which the browser asks for the file that was made."""
    return {"made": answer.id, "note": answer.result.get("note", "")}


def converted_file(question_id: Any) -> Path:
    """Return the file that was made for a question; raise UserError."""
    answer = questions.view(an_id(question_id, "file"))
    if answer.kind != "convert" or answer.state != "done":
        raise UserError(words.CHOOSE_FIRST.format(what="file"))
    return confine(answer.folder, str(answer.result["file"]))


QUESTIONS = {"report": Question(report_payload, report_data), "convert": Question(convert_payload, convert_data)}
SERVER = [save_facts, *server_functions(QUESTIONS)]
