"""What the shelf knows of a LoRA from its header alone. Knows nothing about torch, sidecars or the index.

Understanding the names of thousands of tensors takes tens of milliseconds, and most files in the wild have the very same
names, shapes and formats as a thousand others. So what was understood is kept per structure: per digest of the header
without the free text. Only a file that was checked whole and understood gets such an entry; all others are read in full.
"""

import json
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

from sdlora.errors import UserError
from sdlora.lora.formats.header import MAX_HEADER_BYTES, Header, header, opened
from sdlora.lora.formats.layout import layout
from sdlora.lora.tools.report import trigger
from sdlora.storage import MAX_NAME, clean_text

START = '{"__metadata__":'
POSITIONAL = "cloneofsimo"  # the one dialect whose free text decides what its names mean
COVER_KEYS = ("modelspec.thumbnail", "ssmd_cover_images")
HINTS = (("sd_v1", "sd1"), ("sd_v2", "sd2"), ("sdxl", "sdxl"), ("sdlora_mini", "mini"), ("sd_1", "sd1"), ("sd_2", "sd2"))
Structures = dict[bytes, "Structure"]


@dataclass(frozen=True)
class Structure:
    """What follows from names, shapes and formats: the same for every file of this structure."""
    families: tuple[str, ...]
    kind: str
    dialect: str
    rank: int
    modules: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Structure":
        told = json.loads(text)
        return cls(**told | {"families": tuple(told["families"])})


@dataclass(frozen=True)
class Facts:
    """What a header says. problem: the sentence why the file cannot be used, "" when it can; data_bytes: of its tensors.

    alias: the name that `<lora:...>` prompts of other programs use; told_hash: what it claims to be the hash of its tensors.
    """
    families: tuple[str, ...] = ()
    kind: str = ""
    dialect: str = ""
    rank: int = 0
    modules: int = 0
    title: str = ""
    alias: str = ""
    trigger: str = ""
    description: str = ""
    family_hint: str = ""
    run: str = ""
    told_hash: str = ""
    data_bytes: int = 0
    embedded: bool = False
    problem: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))  # ASCII: the name of a file, which `problem` tells, may be no text that SQLite keeps

    @classmethod
    def from_json(cls, text: str) -> "Facts":
        told = json.loads(text)
        return cls(**told | {"families": tuple(told["families"])})


def read(path: Path, known: Structures) -> Facts:
    """The facts of one file; a new structure is added to `known`. Nothing is raised: what is wrong is told in `problem`."""
    try:
        metadata, key, data_bytes = outline(path)
        structure = known.get(key) if key else None
        if structure is None:
            found = header(path)
            structure = understood(path.name, found)
            if key and metadata == found.metadata and structure.families and structure.dialect != POSITIONAL:
                known[key] = structure
            metadata, data_bytes = found.metadata, found.file_bytes - found.data_start
    except UserError as refused:
        return Facts(problem=str(refused))
    except OSError as error:
        return Facts(problem=f"{path.name} could not be read ({error.strerror}). Check the disk.")
    problem = "" if structure.families else \
        f"{path.name} was made for another kind of base model. Choose one for Stable Diffusion."
    return replace(told(metadata), **vars(structure), data_bytes=data_bytes, problem=problem)


def outline(path: Path) -> tuple[dict[str, str], bytes, int]:
    """(metadata, digest of the structure, bytes of tensors) of a file whose header begins with its metadata or has none.

    The digest is b"" for every other file. Raises UserError where `header` would not even read the JSON.
    """
    with opened(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            return {}, b"", 0
        raw = file.read(length)
    try:
        text = raw.decode("utf-8")
        metadata, end = {}, 0
        if text.startswith(START):
            metadata, end = json.JSONDecoder(object_pairs_hook=once).raw_decode(text, len(START))
        elif "__metadata__" in text:
            return {}, b"", 0
    except (ValueError, RecursionError):
        return {}, b"", 0
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return {}, b"", 0
    data_bytes = size - 8 - length
    structure = text[end:].rstrip(" ")  # the room to the next multiple of 8 depends on the free text
    return metadata, sha256(f"{data_bytes}{structure}".encode()).digest(), data_bytes


def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object in which no name occurs twice; ValueError for others, which `header` then refuses in words."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def understood(name: str, found: Header) -> Structure:
    """The structure behind a checked header. Raises UserError for everything that `layout` refuses."""
    plan = layout(name, found)
    return Structure(plan.families, plan.kind, plan.dialect, plan.rank, len(plan.modules))


def told(metadata: dict[str, str]) -> Facts:
    """What the free text of a header says, cut and cleaned."""
    def first(*keys: str, length: int = MAX_NAME) -> str:
        return next((text for key in keys if (text := clean_text(metadata.get(key, ""), length))), "")

    version = first("ss_base_model_version").lower()
    claimed = metadata.get("sshs_model_hash") or metadata.get("modelspec.hash_sha256", "").removeprefix("0x")
    return Facts(
        title=first("modelspec.title", "ssmd_display_name", "ss_output_name"), alias=first("ss_output_name"),
        trigger=trigger(metadata) or first("ssmd_keywords", length=200),
        description=first("modelspec.description", "ssmd_description", length=2000), run=first("sdlora_run"),
        family_hint=next((family for start, family in HINTS if version.startswith(start)), ""),
        told_hash=claimed.lower() if len(claimed) == 64 and all(c in "0123456789abcdef" for c in claimed.lower()) else "",
        embedded=any(len(metadata.get(key, "")) > 100 for key in COVER_KEYS))
