"""The kinds of LoRA: the suffix of a tensor's name says which part of its module it is, the shapes of all parts say the kind.

Knows nothing about the modules of a network or about values. math/formulas.py does the mathematics of each kind. A weight's shape
holds None for a side that the kind leaves open (OFT rotates outputs, whatever the inputs are), and the inputs of a convolution
may come as one number, in x k x k.
"""

import math
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

Kind = Literal["lora", "loha", "lokr", "oft", "glora", "full", "ia3"]
Shape = tuple[int, ...]
Weight = tuple[int | None, ...]
ANY_KIND = {"alpha", "scale", "dora_scale", "magnitude", "diff_b", "bias"}
MOST_VALUES, MOST_KERNEL = 2**27, 9  # of one weight: Stable Diffusion's largest has 63 million, its largest kernel is 3 x 3
NUMBERS = ("alpha", "scale", "on_input")  # single values: any number format will do
TITLES: dict[Kind, str] = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "oft": "OFT", "glora": "GLoRA",
                           "full": "full difference", "ia3": "IA3"}
PARTS = {  # suffix, without an adapter's name -> part; a suffix that belongs to one kind alone is the part itself
    "lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid",
    "lora_A.weight": "down", "lora_B.weight": "up", "lora_B.bias": "bias",
    "lora.down.weight": "down", "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down", "lora_linear_layer.up.weight": "up",
    "alpha": "alpha", "scale": "scale", "dora_scale": "dora_scale",
    "lora_magnitude_vector.weight": "magnitude", "lora_magnitude_vector": "magnitude",
    **{suffix: suffix for suffix in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
                                     "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
                                     "oft_blocks", "oft_diag", "rescale", "on_input", "ia3_l", "diff", "diff_b", "set_weight")},
    "oft_R.weight": "oft_R", "w_norm": "diff", "b_norm": "diff_b",
    **{f"{name}.weight": name for name in ("a1", "a2", "b1", "b2", "bm")}}
WITH_ADAPTER_NAME = ("lora_", "hada_", "lokr_", "oft_R", "ia3_l")  # PEFT puts the adapter's name behind these
PEFT = ("lora_A", "lora_B", "lora_magnitude", "oft_R", "ia3_l")
UNSUPPORTED = {  # the end of a name -> the kind it belongs to, which sdlora does not read
    "boft_R": "BOFT of PEFT", "boft_s": "BOFT of PEFT", "vera_lambda_b": "VeRA", "vera_lambda_d": "VeRA", "lora_E": "AdaLoRA",
    "q_layer.weight": "T-LoRA", "p_layer.weight": "T-LoRA", "lambda_layer": "T-LoRA", "hra_u": "HRA", "lora_embedding_A":
    "embedding LoRA", "lora_embedding_B": "embedding LoRA", "reshape_weight": "resized LoRA (reshape_weight)",
    "randlora_lambda": "RandLoRA", "fourierft_spectrum": "FourierFT", "lokr_t1": "LoKr with lokr_t1"}
ENDING = re.compile(
    r"\.(?P<suffix>(?:" + "|".join(sorted({re.escape(suffix.removesuffix(".weight").removesuffix(".bias")) for suffix in PARTS},
                                        key=len, reverse=True)) + r"))"
    r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?P<tail>\.weight|\.bias)?$")
ATTENTION_PROCESSOR = re.compile(r"_lora\.(?P<half>down|up)\.weight$")  # of diffusers up to 0.20
UNDERSCORED = re.compile(r"[._]lora_(?P<half>down|up|mid)[._]weight$|_(?P<alpha>alpha)$")


class SplitName(NamedTuple):
    """module: the name before the suffix; form: "" as kohya, "PEFT", "lora.down", "attention processors" or "repaired"."""
    module: str
    part: str
    form: str
    adapter: str = ""


def split_suffix(name: str) -> SplitName | None:
    """Split a tensor's name before its suffix; None for an unknown suffix.

    An adapter's name inside the suffix ("lora_A.style.weight") is taken out. "_lora_down_weight" is read as ".lora_down.weight".
    """
    match = ENDING.search(name)
    if match:
        suffix = match["suffix"] + (match["tail"] or "")
        part = PARTS.get(suffix)
        if part and (not match["adapter"] or suffix.startswith(WITH_ADAPTER_NAME)):
            form = "PEFT" if suffix.startswith(PEFT) else "lora.down" if suffix.startswith(("lora.", "lora_linear")) else ""
            return SplitName(name[:match.start()], part, form, match["adapter"] or "")
    match = ATTENTION_PROCESSOR.search(name)
    if match:
        return SplitName(name[:match.start()], match["half"], "attention processors")
    match = UNDERSCORED.search(name)
    return SplitName(name[:match.start()], match["half"] or "alpha", "repaired") if match else None


def unsupported_kind(name: str) -> str | None:
    """Return the kind of LoRA that the end of a name belongs to and that sdlora does not read, or None."""
    parts = name.split(".")
    ends = {".".join(parts[-1:]), ".".join(parts[-2:]), *parts[-3:-1]}
    return next((kind for end, kind in UNSUPPORTED.items() if end in ends), None)


class ModuleKind(NamedTuple):
    """roles: {part, a value of PARTS: role in delta.Adapter.tensors}; rank 0 where the kind has none."""
    kind: Kind
    roles: dict[str, str]
    rank: int
    weight: Weight


def kind_of(shapes: Mapping[str, Shape], on_input: bool | None = None) -> ModuleKind:
    """Return what the parts of one module are together, by their shapes. on_input: the value of IA3's switch, if known.

    Raises ValueError (the end of a sentence) when parts are missing, do not fit each other or belong to different kinds.
    """
    parts = shapes.keys() - ANY_KIND
    kind: Kind | None = next((each for each, own in KIND_PARTS.items() if parts & own), None)
    if kind is None and "diff_b" in shapes:
        kind = "full"
    if kind is None:
        raise ValueError("holds a scale and nothing to scale")
    if strange := parts - KIND_PARTS[kind]:
        raise ValueError(f"mixes {TITLES[kind]} with {min(strange)}")
    if flat := [part for part, shape in shapes.items() if part not in NUMBERS and not 1 <= len(shape) <= 4]:
        raise ValueError(f"has a {flat[0]} of the shape {shapes[flat[0]]}")
    if large := next((part for part, shape in shapes.items() if math.prod(shape) > MOST_VALUES), None):
        raise ValueError(f"has a {large} of {math.prod(shapes[large]) / 1e6:.0f} million numbers, more than any weight")
    roles, rank, weight = RULES[kind](shapes, on_input)
    roles = {part: roles.get(part, part) for part in shapes if part not in ("alpha", "scale")}
    if "alpha" in shapes and math.prod(shapes["alpha"]) != 1 or "scale" in shapes and math.prod(shapes["scale"]) != 1:
        raise ValueError("has an alpha that is not one number")
    if weight_size(weight) > MOST_VALUES or weight_size(weight[2:]) > MOST_KERNEL:
        raise ValueError(f"claims to change a weight of {' x '.join(map(str, weight))}, which no Stable Diffusion has")
    sides = {side for side in weight[:2] if side is not None}
    for extra in {"dora_scale", "magnitude"} & shapes.keys():
        if None not in weight[:2] and math.prod(shapes[extra]) not in sides:
            raise ValueError(f"has a {extra} of {math.prod(shapes[extra])} values, which fits neither side")
    for extra in {"diff_b", "bias"} & shapes.keys():
        if weight[0] is not None and math.prod(shapes[extra]) != weight[0]:
            raise ValueError(f"has a {extra} of {math.prod(shapes[extra])} values for {weight[0]} outputs")
    return ModuleKind(kind, roles, rank, weight)


def lora(shapes: Mapping[str, Shape], _: bool | None) -> tuple[dict[str, str], int, Weight]:
    """up @ down, with a Tucker core where there is a "mid"."""
    for half in ("down", "up"):
        if half not in shapes:
            raise ValueError(f"has no {half} half")
    down, up, mid = shapes["down"], shapes["up"], shapes.get("mid")
    kernel = down[2:]
    fits = len(down) in (2, 4) and len(up) in (2, 4) and down[0] == up[1] and set(up[2:]) <= {1}
    if mid is not None:
        fits = fits and len(mid) == 4 and mid[:2] == (down[0], down[0]) and set(kernel) <= {1}
        kernel = mid[2:]
    if not fits:
        raise ValueError(f"has halves that do not fit ({down} and {up})")
    return {}, down[0], (up[0], down[1], *kernel)


def loha(shapes: Mapping[str, Shape], _: bool | None) -> tuple[dict[str, str], int, Weight]:
    """(w1a @ w1b) * (w2a @ w2b), or the same through two Tucker cores."""
    first, second = (factor(shapes, f"hada_w{n}", f"hada_t{n}") for n in (1, 2))
    if first[1] != second[1]:
        raise ValueError(f"has two factors of different shapes ({first[1]} and {second[1]})")
    return {part: part.removeprefix("hada_") for part in shapes}, first[0], first[1]


def lokr(shapes: Mapping[str, Shape], _: bool | None) -> tuple[dict[str, str], int, Weight]:
    """kron(w1, w2), each whole or in two factors."""
    small = (0, shapes["lokr_w1"]) if "lokr_w1" in shapes else factor(shapes, "lokr_w1", "")
    large = (0, shapes["lokr_w2"]) if "lokr_w2" in shapes else factor(shapes, "lokr_w2", "lokr_t2")
    if len(small[1]) not in (2, 4) or len(large[1]) not in (2, 4) or set(small[1][2:]) - {1}:
        raise ValueError(f"has factors that cannot be multiplied ({small[1]} and {large[1]})")
    shape = (small[1][0] * large[1][0], small[1][1] * large[1][1], *large[1][2:])
    return {part: part.removeprefix("lokr_") for part in shapes}, large[0] or small[0], shape


def factor(shapes: Mapping[str, Shape], name: str, core: str) -> tuple[int, Shape]:
    """Return (rank, shape) of the product of name_a and name_b, through the Tucker core if there is one."""
    try:
        a, b = shapes[f"{name}_a"], shapes[f"{name}_b"]
    except KeyError as missing:
        raise ValueError(f"has no {missing.args[0]}") from None
    middle = shapes.get(core)
    if middle is not None:
        if len(middle) != 4 or len(a) != 2 or len(b) != 2 or middle[:2] != (a[0], b[0]):
            raise ValueError(f"has a core that does not fit ({a}, {b} and {middle})")
        return b[0], (a[1], b[1], *middle[2:])
    if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
        raise ValueError(f"has factors that do not fit ({a} and {b})")
    return b[0], (a[0], b[1])


def oft(shapes: Mapping[str, Shape], _: bool | None) -> tuple[dict[str, str], int, Weight]:
    """Rotated outputs: blocks (n, s, s), a butterfly of them (m, n, s, s), the older diag; PEFT's oft_R rotates inputs."""
    kinds = [part for part in ("oft_blocks", "oft_diag", "oft_R") if part in shapes]
    if len(kinds) != 1:
        raise ValueError("has no rotation" if not kinds else "has two rotations")
    blocks = shapes[kinds[0]]
    if kinds[0] == "oft_R":
        side = round((1 + math.sqrt(1 + 8 * blocks[-1])) / 2)  # a skew matrix of this side has side (side - 1) / 2 numbers
        if len(blocks) != 2 or side * (side - 1) // 2 != blocks[1]:
            raise ValueError(f"has rotations that are no square blocks ({blocks})")
        return {"oft_R": "oft_R"}, 0, (None, blocks[0] * side if blocks[0] > 1 else None)
    if len(blocks) not in (3, 4) or blocks[-1] != blocks[-2] or kinds[0] == "oft_diag" and len(blocks) != 3:
        raise ValueError(f"has rotations that are no square blocks ({blocks})")
    out = blocks[-3] * blocks[-2]
    if "rescale" in shapes and math.prod(shapes["rescale"]) != out:
        raise ValueError(f"has a rescale of {math.prod(shapes['rescale'])} values for {out} outputs")
    return {part: part.removeprefix("oft_") for part in shapes}, 0, (out, None)


def glora(shapes: Mapping[str, Shape], _: bool | None) -> tuple[dict[str, str], int, Weight]:
    """W (a1 @ a2) + b1 @ b2. Older files name the factors the other way round (ComfyUI tells them apart as here)."""
    try:
        a1, a2, b1, b2 = (shapes[part] for part in ("a1", "a2", "b1", "b2"))
    except KeyError as missing:
        raise ValueError(f"has no {missing.args[0]}") from None
    if any(len(shape) not in (2, 4) for shape in (a1, a2, b1, b2)):
        raise ValueError("has factors that are no matrices")
    swapped = b2[1] == b1[0] == a1[0] == a2[1] and a1[1] == a2[0] == b1[1] and "bm" not in shapes
    if b2[0] == b1[1] == a1[1] == a2[0] and a1[0] == a2[1] == b2[1] and not (swapped and a1[0] < a1[1]):  # square: both fit
        kernel = shapes["bm"][2:] if "bm" in shapes else b2[2:]
        return {}, a2[0], (b1[0], b2[1], *kernel)
    if swapped:
        return {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1"}, a1[0], (b2[0], b1[1], *b1[2:])
    raise ValueError(f"has factors that do not fit ({a1}, {a2}, {b1} and {b2})")


def full(shapes: Mapping[str, Shape], _: bool | None) -> tuple[dict[str, str], int, Weight]:
    """The difference of the weight, or a whole new weight; a bias may come alone."""
    if "diff" in shapes and "set_weight" in shapes:
        raise ValueError("has both a difference and a replacement")
    shape = shapes.get("diff", shapes.get("set_weight"))
    if shape is not None and len(shape) not in (1, 2, 4):
        raise ValueError(f"has a difference of the shape {shape}, which no weight has")
    return {"set_weight": "set"}, 0, shape or (math.prod(shapes["diff_b"]), None)


def ia3(shapes: Mapping[str, Shape], on_input: bool | None) -> tuple[dict[str, str], int, Weight]:
    """A factor for every output or every input."""
    part = "ia3_l" if "ia3_l" in shapes else "weight"
    if part not in shapes or part == "weight" and "on_input" not in shapes:
        raise ValueError("lacks its vector or on_input")
    count = math.prod(shapes[part])
    if max(shapes[part]) != count:
        raise ValueError(f"has factors of the shape {shapes[part]}")
    if part == "ia3_l":
        on_input = shapes[part][0] == 1
    return {}, 0, (None, None) if on_input is None else (None, count) if on_input else (count, None)


KIND_PARTS: dict[Kind, set[str]] = {
    "lora": {"down", "up", "mid"}, "loha": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"},
    "lokr": {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"},
    "oft": {"oft_blocks", "oft_diag", "oft_R", "rescale"}, "glora": {"a1", "a2", "b1", "b2", "bm"},
    "full": {"diff", "set_weight"}, "ia3": {"weight", "on_input", "ia3_l"}}
RULES = {"lora": lora, "loha": loha, "lokr": lokr, "oft": oft, "glora": glora, "full": full, "ia3": ia3}


def weight_size(weight: Weight) -> int:
    """Return how many numbers a weight has, as far as its shape is known. A file of a few kB can claim any."""
    return math.prod(side for side in weight if side is not None)


def fits(weight: Weight, real: Shape) -> bool:
    """Return whether a change of this shape fits a real weight. A 1x1 convolution and a linear layer are the same."""
    if len(weight) == 1 or len(real) == 1:
        return math.prod(real) == weight[0] and len(weight) == 1 or weight == (real[0], None)
    if weight[0] not in (None, real[0]):
        return False
    if len(weight) == 2:  # inputs as one number, or open
        return weight[1] in (None, real[1], math.prod(real[1:]))
    return weight_size(weight[1:]) == math.prod(real[1:]) and weight[1] == real[1]
