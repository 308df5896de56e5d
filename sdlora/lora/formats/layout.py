"""The contents of a LoRA file: modules, kinds, ranks, alphas, family; or a UserError that says what the file is instead.

Works on the header and a few scalars. Knows nothing about torch, bases on disk or drawing.
"""

import math
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from sdlora import storage
from sdlora.errors import UserError
from sdlora.families import FAMILIES, WIDTHS
from sdlora.lora.formats import cloneofsimo
from sdlora.lora.formats.dialects import FileNames, diffusers_name, parse_names
from sdlora.lora.formats.header import AGAIN, FLOATS, MAX_FILE_BYTES, Header, array, contents, header, refuse_size
from sdlora.lora.formats.kinds import NUMBERS, TITLES, Kind, Weight, fits, kind_of, weight_size
from sdlora.lora.formats.module_tables import Table, family_table
from sdlora.lora.formats.peft_config import SERIES, Config, configs_of, needed
from sdlora.lora.formats.unsupported import refuse

EMBEDDING = re.compile(r"bundle_emb\.(?P<bundled>[^.]{1,80})\.|(?P<token><[^<>]{1,80}>)$")
UNKNOWN, INSIDE = "a name we do not know", "an embedding inside the file"
MAX_CONFIG_BYTES = 1_000_000
MOST_VALUES = 2**32  # of all weights that a file changes: Stable Diffusion XL has 3.4 billion


@dataclass(frozen=True)
class Module:
    """One adapter of a file. kind as in delta.Adapter; tensors: {role: tensor name}; rank 0 where it has none.

    Beside the roles of delta.Adapter there are PEFT's own "magnitude", "bias", "oft_R" and "ia3_l", which reading.py converts.
    factor: the scale of a kind without alpha. shape: that of the weight, as in kinds.py.
    terms: how many terms of a series PEFT makes the rotations of an "oft_R" from, 0 where it solves for them.
    """
    kind: Kind
    tensors: dict[str, str]
    rank: int
    alpha: float
    shape: Weight
    factor: float = 1.0
    terms: int = 0

    @property
    def scale(self) -> float:
        """The factor on the change at strength 1."""
        return self.factor * (self.alpha / self.rank if self.rank else 1.0)


@dataclass(frozen=True)
class Layout:
    """A LoRA file. families: those it can belong to; ignored: (tensor name, reason); notes: sentences."""
    dialect: str
    spelling: str
    modules: dict[str, Module]
    families: tuple[str, ...]
    ignored: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def rank(self) -> int:
        """The largest rank, 0 where no module has one."""
        return max(module.rank for module in self.modules.values())

    @property
    def kind(self) -> str:
        """"LoRA", "LoCon" (a LoRA with convolutions), "DoRA", "LoHa"...; several are joined, the most frequent first."""
        counts = Counter(title(module) for module in self.modules.values())
        if counts["LoCon"]:
            counts["LoCon"] += counts.pop("LoRA", 0)
        return " + ".join(sorted(counts, key=lambda name: (-counts[name], name)))


def title(module: Module) -> str:
    """Return the name of one module's kind."""
    if {"dora_scale", "magnitude"} & module.tensors.keys():
        return "DoRA" if module.kind == "lora" else f"{TITLES[module.kind]} with DoRA"
    if module.kind == "lora" and len(module.shape) == 4 and module.shape[2:] != (1, 1):
        return "LoCon"
    if module.kind == "full":
        return "replacement" if "set" in module.tensors else "norm difference" if len(module.shape) == 1 else TITLES["full"]
    return TITLES[module.kind]


def open_lora(path: Path) -> tuple[Header, bytearray, Layout]:
    """Return header, a copy of the tensor bytes and the layout of a LoRA file. Raises UserError for anything else."""
    found = header(path)
    if found.file_bytes > MAX_FILE_BYTES:
        layout(Path(path).name, found)  # a whole model, say: its names make a better message than its size
    found, data = contents(Path(path))
    found = with_config(Path(path), found)
    return found, data, layout(Path(path).name, found, data)


def standalone_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file with what PEFT keeps beside it, for a copy without that file. Raises UserError."""
    found = header(Path(path))
    whole = with_config(Path(path), found).metadata
    return whole if whole == found.metadata else whole | {"lora_adapter_metadata": needed(whole["lora_adapter_metadata"])}


def with_config(path: Path, found: Header) -> Header:
    """Return the header with the adapter_config.json beside the file: PEFT's save_pretrained keeps alpha there alone."""
    beside = path.with_name("adapter_config.json")
    if "lora_adapter_metadata" in found.metadata or not any(key.startswith("base_model.") for key in found.tensors):
        return found
    try:
        if not beside.is_file() or beside.stat().st_size > MAX_CONFIG_BYTES:
            return found
        with storage.open_regular(beside) as file:
            config = file.read(MAX_CONFIG_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise UserError(f"adapter_config.json beside {path.name} could not be read ({error.strerror}).",
                        "It says how strong the LoRA is: check the file.") from error
    return replace(found, metadata=found.metadata | {"lora_adapter_metadata": config})


def layout(name: str, found: Header, data: bytes | bytearray | None = None) -> Layout:
    """Return the layout of the file `name`. Without `data` (a scan of headers) alphas are unknown and taken as the ranks.

    Raises UserError for other kinds of files, unknown kinds of LoRA and parts that do not fit each other.
    """
    is_numbered = cloneofsimo.is_numbered(found.tensors)
    names = cloneofsimo.parse_numbered(name, found) if is_numbered else parse_names(list(found.tensors))
    refuse(name, found, names)
    refuse_size(name, found.file_bytes)
    empty = drop_empty(name, found, names)
    reader = Reader(name, found, data, configs_of(found.metadata), names.dialect, notes=[*repairs(names), *empty])
    modules = second_encoder({path: reader.module(path, parts) for path, parts in names.modules.items()}, reader.notes)
    if is_numbered:
        cloneofsimo.check_order(name, {path: module.shape for path, module in modules.items()})
    reader.notes += contradictions(found.metadata, modules, reader.alphas)
    if (claimed := sum(weight_size(module.shape) for module in modules.values())) > MOST_VALUES:
        raise UserError(f"{name} claims to change {claimed / 1e9:.0f} billion weights, more than any base has.", AGAIN)
    ignored = names.repeated | {key: INSIDE if EMBEDDING.match(key) else UNKNOWN for key in names.unknown}
    return Layout(names.dialect, names.spelling, modules, families(modules), tuple(ignored.items()),
                  tuple(dict.fromkeys([*reader.notes, *notes_on_ignored(ignored)])))


def repairs(names: FileNames) -> list[str]:
    """Return sentences about what was repaired in the names."""
    return [f"{count} names had {what}: read as they were meant." for what, count in names.repairs.items()]


def notes_on_ignored(ignored: dict[str, str]) -> list[str]:
    """Return sentences about tensors that are not read, {name: reason}."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in ignored.items():
        by_reason.setdefault(reason, []).append(name)
    embeddings = {match["bundled"] or match["token"] for name in by_reason.pop(INSIDE, ()) if (match := EMBEDDING.match(name))}
    notes = [f"{len(names)} {'tensor is' if len(names) == 1 else 'tensors are'} left out: {reason} ({names[0][:80]})."
             for reason, names in by_reason.items()]
    if embeddings:
        some = ", ".join(sorted(embeddings)[:5])
        notes.append(f"It carries the embeddings {some}, which are left out." if len(embeddings) > 1
                     else f"It carries the embedding {some}, which is left out.")
    return notes


def drop_empty(name: str, found: Header, names: FileNames) -> list[str]:
    """Remove modules of rank 0 from `names`; return a sentence about them. Raises UserError when nothing else is in the file."""
    empty = {path for path, parts in names.modules.items() if any(0 in found.tensors[key][1] for key in parts.values())}
    if not empty:
        return []
    if len(empty) == len(names.modules):
        raise UserError(f"{name} changes nothing: the rank of every layer is 0.", AGAIN)
    for path in empty:
        names.modules.pop(path)
    return [f"{len(empty)} {'layer has' if len(empty) == 1 else 'layers have'} the rank 0 and change nothing ({min(empty)})."]


def contradictions(metadata: dict[str, str], modules: dict[str, Module], alphas: bool) -> list[str]:
    """Return a sentence for a rank or an alpha that the metadata gives but no tensor has. alphas: whether tensors hold alpha."""
    found = []
    for key, title, there in (("ss_network_dim", "rank", {module.rank for module in modules.values() if module.rank}),
                              ("ss_network_alpha", "alpha", {module.alpha for module in modules.values() if module.rank})):
        try:
            claimed = float(metadata.get(key, ""))
        except ValueError:
            continue  # "Dynamic", "None" or nothing at all
        known = there if math.isfinite(claimed) and (title == "rank" or alphas) else ()
        if known and not any(math.isclose(claimed, value, rel_tol=1e-2) for value in known):
            found.append(f"Its metadata gives the {title} {claimed:g}, its tensors have {as_range(there)}: the tensors count.")
    return found


def as_range(values: Collection[float]) -> str:
    return f"{min(values):g}" if len(values) == 1 else f"{min(values):g} to {max(values):g}"


def second_encoder(modules: dict[str, Module], notes: list[str]) -> dict[str, Module]:
    """Return the modules with "te2" for "te1" where SDXL's second text encoder was saved alone, which its widths show."""
    renamed = {path.replace("te1:", "te2:"): module for path, module in modules.items()}
    if any(not path.startswith("te1:") for path in modules) or len(matching(renamed, family_table("sdxl"))) < len(renamed) \
            or any(matching(modules, family_table(family)) for family in FAMILIES):
        return modules
    notes.append("It was read as a LoRA of SDXL's second text encoder, by its widths.")
    return renamed


@dataclass
class Reader:
    """The modules of one file, made one by one. dialect: decides what a missing alpha means; notes: sentences, appended to.

    alphas: whether a tensor held an alpha.
    """
    name: str
    found: Header
    data: bytes | bytearray | None
    configs: dict[str, Config]
    dialect: str
    notes: list[str]
    alphas: bool = False

    def module(self, path: str, parts: dict[str, str]) -> Module:
        """Return one module from its parts {part: tensor name}. Raises UserError when they do not fit."""
        shapes = {part: self.found.tensors[key][1] for part, key in parts.items()}
        if odd := [part for part, key in parts.items() if part not in NUMBERS and self.found.tensors[key][0] not in FLOATS]:
            raise UserError(f"{self.name} is damaged: the {odd[0]} of {path} holds whole numbers.", AGAIN)
        try:
            on_input = bool(self.number(parts["on_input"])) if self.data and "on_input" in parts else None
            kind, roles, rank, weight = kind_of(shapes, on_input)
            tensors = {role: parts[part] for part, role in roles.items()}
            return self.scaled(Module(kind, tensors, rank, float(rank), weight), path, parts)
        except ValueError as error:
            raise UserError(f"{self.name} is damaged or incomplete: {path} {error}.", AGAIN) from error

    def scaled(self, module: Module, path: str, parts: dict[str, str]) -> Module:
        """Return the module with its alpha: of a tensor, else of the configuration, else the rank. Raises ValueError."""
        rank = module.rank
        if "scale" in parts:  # A1111 takes it in place of alpha / rank
            factor = self.number(parts["scale"]) if self.data else 1.0
            if factor != 1 and (module.kind == "oft" or "set" in module.tensors):
                raise ValueError(f"has a scale of its own, {factor:g}, which its kind has no place for")
            return replace(module, alpha=factor * rank) if rank else replace(module, factor=factor)
        if "alpha" in parts:
            self.alphas = self.data is not None
            alpha = self.number(parts["alpha"]) if self.data else 0.0
            if alpha < 0:
                raise ValueError(f"has the alpha {alpha}")
            if self.data and alpha == 0 and rank:
                self.notes.append("alpha is 0: read as the rank")
            return replace(module, alpha=alpha if module.kind == "oft" else alpha or float(rank))
        part, _, name = diffusers_name(path).partition(".")
        config = self.configs.get(part) or self.configs.get("")
        if "oft_R" in parts:
            return replace(module, alpha=0.0, terms=config.series if config else SERIES)
        if config and module.kind in ("lora", "loha", "lokr"):
            alpha = config.alpha(name, rank or config.rank(name))
            if alpha is not None and rank:
                return replace(module, alpha=alpha)
            if alpha is not None and config.rank(name):
                return replace(module, factor=alpha / config.rank(name))
        if rank and self.dialect == "kohya":
            self.notes.append("alpha is missing: read as the rank")
        elif rank and any(key.startswith("base_model.") for key in parts.values()):
            self.notes.append("alpha is not given: PEFT keeps it in adapter_config.json, which is not beside the file; "
                              "read as the rank")
        return module

    def number(self, key: str) -> float:
        """Return the one value of a tensor. Raises ValueError unless it is one, and finite."""
        values = array(self.found, self.data or b"", key)
        if values.size != 1 or not math.isfinite(values.reshape(-1)[0]):
            role = key.rpartition(".")[2]
            raise ValueError(f"has a{'n' * (role[0] in 'aeiou')} {role} that is not one number")
        return float(values.reshape(-1)[0])


def families(modules: dict[str, Module]) -> tuple[str, ...]:
    """Return the families a file can belong to: by the width of its cross-attention, else those whose modules it fits best."""
    widths = {width for path, module in modules.items() if path.endswith(("attn2.to_k", "attn2.to_v")) and ":" not in path
              and len(module.shape) > 1 and (width := module.shape[1]) is not None}
    if widths:
        return (WIDTHS[widths.pop()],) if len(widths) == 1 and widths <= WIDTHS.keys() else ()
    counts = {family: len(matching(modules, family_table(family))) for family in FAMILIES}
    best = max(counts.values())
    return tuple(family for family, count in counts.items() if count == best and count)


def matching(modules: dict[str, Module], table: Table) -> list[str]:
    """Return the paths that `table` has with a weight that the module fits."""
    return [path for path, module in modules.items() if path in table and fits(module.shape, table[path])]
