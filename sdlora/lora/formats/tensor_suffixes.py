"""What the end of a tensor's name says: the part it plays in its module. Knows nothing about modules, blocks or tensors.

The leaves of lora-files.md 2.2 and 2.3. A part is one short word; where a leaf belongs to one kind alone, its own name.
"""

import re
from typing import NamedTuple

PARTS = {  # leaf, without an adapter's name -> part
    "lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid",
    "lora_A.weight": "down", "lora_B.weight": "up", "lora_B.bias": "bias",
    "lora.down.weight": "down", "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down", "lora_linear_layer.up.weight": "up",
    "alpha": "alpha", "scale": "scale", "dora_scale": "dora_scale",
    "lora_magnitude_vector.weight": "magnitude", "lora_magnitude_vector": "magnitude",
    **{leaf: leaf for leaf in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
                               "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
                               "oft_blocks", "oft_diag", "rescale", "on_input", "ia3_l", "diff", "diff_b", "set_weight")},
    "oft_R.weight": "oft_R", "w_norm": "diff", "b_norm": "diff_b",
    **{f"{leaf}.weight": leaf for leaf in ("a1", "a2", "b1", "b2", "bm")}}
NAMED = ("lora_", "hada_", "lokr_", "oft_R", "ia3_l")          # PEFT puts the adapter's name behind these
PEFT = ("lora_A", "lora_B", "lora_magnitude", "oft_R", "ia3_l")
REFUSED = {  # the end of a name -> the kind it gives away, which we do not read
    "boft_R": "BOFT of PEFT", "boft_s": "BOFT of PEFT", "vera_lambda_b": "VeRA", "vera_lambda_d": "VeRA", "lora_E": "AdaLoRA",
    "q_layer.weight": "T-LoRA", "p_layer.weight": "T-LoRA", "lambda_layer": "T-LoRA", "hra_u": "HRA", "lora_embedding_A":
    "embedding LoRA", "lora_embedding_B": "embedding LoRA", "reshape_weight": "resized LoRA (reshape_weight)",
    "randlora_lambda": "RandLoRA", "fourierft_spectrum": "FourierFT", "lokr_t1": "LoKr with lokr_t1"}
ENDING = re.compile(
    r"\.(?P<leaf>(?:" + "|".join(sorted({re.escape(leaf.removesuffix(".weight").removesuffix(".bias")) for leaf in PARTS},
                                        key=len, reverse=True)) + r"))"
    r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?P<tail>\.weight|\.bias)?$")
OLD = re.compile(r"_lora\.(?P<half>down|up)\.weight$")         # attention processors of diffusers up to 0.20
FLAT = re.compile(r"[._]lora_(?P<half>down|up|mid)[._]weight$|_(?P<alpha>alpha)$")


class Leaf(NamedTuple):
    """module: the name before the leaf; form: "" as kohya, "PEFT", "lora.down", "attention processors" or "repaired"."""
    module: str
    part: str
    form: str
    adapter: str = ""


def leaf_of(name: str) -> Leaf | None:
    """Split a tensor's name at its leaf; None for a leaf of no spelling.

    An adapter's name inside the leaf ("lora_A.style.weight") is taken out. "_lora_down_weight" is read as it was meant.
    """
    match = ENDING.search(name)
    if match:
        leaf = match["leaf"] + (match["tail"] or "")
        part = PARTS.get(leaf)
        if part and (not match["adapter"] or leaf.startswith(NAMED)):
            form = "PEFT" if leaf.startswith(PEFT) else "lora.down" if leaf.startswith(("lora.", "lora_linear")) else ""
            return Leaf(name[:match.start()], part, form, match["adapter"] or "")
    match = OLD.search(name)
    if match:
        return Leaf(name[:match.start()], match["half"], "attention processors")
    match = FLAT.search(name)
    return Leaf(name[:match.start()], match["half"] or "alpha", "repaired") if match else None


def refused_kind(name: str) -> str | None:
    """The kind that the end of a name gives away and that sdlora does not read, or None."""
    parts = name.split(".")
    ends = {".".join(parts[-1:]), ".".join(parts[-2:]), *parts[-3:-1]}
    return next((kind for end, kind in REFUSED.items() if end in ends), None)
