"""Products and shared directions against dense fp64 matrices; principal angles by the textbook."""

import pytest
import torch

from sdlora.lora.math.delta import Adapter, delta
from sdlora.lora.tools.geometry import DIRECTIONS, measure
from tests.lora.math.test_delta import several


def lora(seed, out=40, inner=30, rank=3, alpha=2.0, up=None, down=None):
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(out, rank, generator=generator) if up is None else up
    down = torch.randn(rank, inner, generator=generator) if down is None else down
    return Adapter("lora", {"down": down, "up": up}, alpha, up.shape[1], "unet")


@pytest.mark.parametrize("one", several())
@pytest.mark.parametrize("other", ["lora", "tucker", "dora", "large loha", "norm"])
def test_products_of_any_kinds_are_those_of_the_dense_changes(one, other):
    kinds = several()
    (first, shape), (second, second_shape) = kinds[one], kinds[other]
    if shape == second_shape:
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(9))
        found = measure([{"a": first}, {}, {"a": second}], {"a": weight})
        changes = torch.stack([delta(first, weight).flatten(), torch.zeros(weight.numel()), delta(second, weight).flatten()])
        dense = changes.double() @ changes.double().T
        torch.testing.assert_close(found.products["a"], dense, rtol=1e-4, atol=1e-5)
        assert found.sizes["a"] == pytest.approx(weight.norm().item(), rel=1e-5)


def textbook(first, second):
    """Principal angles by SVD of the dense matrices."""
    shares = []
    for sides in ((0, 0), (2, 2)):
        bases = []
        for change in (first, second):
            parts = torch.linalg.svd(change.double(), full_matrices=False)
            energy = parts[1].square().cumsum(0) / parts[1].square().sum()
            kept = int((energy < DIRECTIONS).sum()) + 1
            bases.append(parts[0][:, :kept] if sides == (0, 0) else parts[2][:kept].T)
        cosines = torch.linalg.svdvals(bases[0].T @ bases[1])
        smaller, larger = sorted(each.shape[1] for each in bases)
        chance = larger / bases[0].shape[0]
        shares.append(max(0.0, (float(cosines.square().sum()) / smaller - chance) / (1 - chance)))
    return sum(shares) / 2


def test_the_shared_subspace_is_that_of_the_principal_angles():
    common = torch.randn(40, 2, generator=torch.Generator().manual_seed(5))
    first = lora(1, up=torch.cat([common, torch.randn(40, 2, generator=torch.Generator().manual_seed(6))], 1), rank=4)
    second = lora(2, up=torch.cat([common @ torch.tensor([[1.0, 2], [0.5, -1]]), torch.zeros(40, 1)], 1))
    weight = torch.randn(40, 30)
    found = measure([{"a": first}, {"a": second}], {"a": weight}).shared["a"]
    expected = textbook(delta(first, weight), delta(second, weight))
    assert 0.2 < expected < 0.9
    assert [float(found[0, 1]), float(found[1, 0])] == pytest.approx([expected, expected], abs=1e-4)
    assert float(found[0, 0]) == pytest.approx(1, abs=1e-6)


def test_strangers_share_nothing_and_a_scaled_copy_everything():
    strangers = [measure([{"a": lora(seed, 200, 150, 8)}, {"a": lora(seed + 50, 200, 150, 8)}], {"a": torch.ones(200, 150)})
                 for seed in range(4)]
    assert sum(float(each.shared["a"][0, 1]) for each in strangers) / 4 < 0.02
    copy = lora(1)
    turned = Adapter("lora", {"down": 3 * copy.tensors["down"], "up": -copy.tensors["up"]}, 7.0, 3, "unet")
    found = measure([{"a": copy}, {"a": turned}], {"a": torch.ones(40, 30)})
    assert float(found.shared["a"][0, 1]) == pytest.approx(1, abs=1e-5)
    assert float(found.products["a"][0, 1]) < 0


def test_a_change_of_nothing_and_absent_modules():
    nothing = lora(1, up=torch.zeros(40, 3))
    found = measure([{"a": nothing, "elsewhere": lora(2)}, {"a": lora(3)}, {}], {"a": torch.ones(40, 30)})
    assert list(found.sizes) == ["a"]
    assert found.products["a"][0].abs().max() == 0 and found.shared["a"][0].isnan().all() and found.shared["a"][2].isnan().all()


def test_a_misfit_is_refused():
    with pytest.raises(ValueError, match="fit"):
        measure([{"a": lora(1)}], {"a": torch.ones(30, 40)})
