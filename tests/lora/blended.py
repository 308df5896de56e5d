"""What a blend must come to, from the parts of lora.blend but with the addition and the rounding written out once more."""

from sdlora.lora.math.blend import bias_change, change, parts_of


def blend(ingredients, weights):
    """{path: pristine weight} -> {path: blended weight in the same dtype}, for the paths that change."""
    chosen = parts_of(ingredients, weights)
    return {path: (weights[path].float() + change(parts, weights[path])).to(weights[path].dtype)
            for path, parts in chosen.items()}


def blend_biases(ingredients, biases):
    """The same for the biases (out,) of modules, of which few LoRAs change any."""
    totals = {path: bias_change(parts) for path, parts in parts_of(ingredients, biases).items()}
    return {path: (biases[path].float() + total).to(biases[path].dtype) for path, total in totals.items() if total is not None}
