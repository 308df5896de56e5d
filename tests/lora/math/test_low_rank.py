"""Fewer ranks, as good as can be: torch's full SVD of dW is the judge (Eckart and Young)."""

import pytest
import torch

from sdlora.errors import UserError
from sdlora.lora.math.delta import Adapter, delta
from sdlora.lora.math.low_rank import Limit, of_matrix, resize

LINEAR, CONV = (40, 24), (20, 12, 3, 3)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64).float()


def lora(shape, rank=8, alpha=4.0, **more):
    tensors = {"down": numbers(rank, *shape[1:]), "up": numbers(shape[0], rank, *[1] * len(shape[2:]))}
    return Adapter("lora", tensors | more, alpha, rank, "unet")


ADAPTERS = {
    "linear": (lora(LINEAR), LINEAR),
    "convolution": (lora(CONV, alpha=16.0), CONV),
    "tucker": (Adapter("lora", {"down": numbers(6, 12, 1, 1), "mid": numbers(6, 6, 3, 3), "up": numbers(20, 6, 1, 1)}, 3.0, 6,
                       "unet"), CONV),
    "loha": (Adapter("loha", {"w1_a": numbers(40, 6), "w1_b": numbers(6, 24), "w2_a": numbers(40, 6, seed=1),
                              "w2_b": numbers(6, 24, seed=1)}, 3.0, 6, "unet"), LINEAR),
    "lokr": (Adapter("lokr", {"w1": numbers(4, 4), "w2_a": numbers(10, 2), "w2_b": numbers(2, 6)}, 1.0, 2, "unet"), LINEAR),
    "full": (Adapter("full", {"diff": numbers(*CONV)}, 0.0, 0, "unet"), CONV)}


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("limit", [Limit(rank=3), Limit(keep=0.8), Limit(fro=0.3), Limit(rank=2, keep=0.99)])
def test_nothing_of_that_rank_is_nearer(name, limit):
    adapter, shape = ADAPTERS[name]
    change = delta(adapter, torch.zeros(shape)).double().flatten(1)
    values = torch.linalg.svdvals(change)
    made, energy = resize({"a": adapter}, limit, shapes={"a": shape})
    small, rank = made["a"], made["a"].rank
    assert small.kind == "lora" and small.alpha == rank == small.tensors["down"].shape[0]
    shares = values.square().cumsum(0) / values.square().sum()
    assert energy["a"] == pytest.approx(float(shares[rank - 1]), rel=1e-5)
    error = delta(small, torch.zeros(shape)).double().flatten(1) - change
    assert float(error.norm()) == pytest.approx(float(values[rank:].norm()), rel=1e-4, abs=1e-4)
    wanted = limit.keep or (1 - limit.fro**2 if limit.fro else 1)
    enough = limit.rank == rank if limit.rank else energy["a"] >= wanted - 1e-6
    assert enough and (rank == 1 or limit.rank or shares[rank - 2] < wanted)


def test_what_is_small_enough_is_kept_to_the_bit():
    adapter, norm = lora(LINEAR), Adapter("full", {"diff": numbers(16), "diff_b": numbers(16)}, 0.0, 0, "unet")
    made, energy = resize({"a": adapter, "n": norm}, Limit(rank=8))
    assert made["a"] is adapter and made["n"] is norm and set(energy.values()) == {1.0}


def test_a_rank_that_is_not_there_is_not_made_up():
    doubled = lora(LINEAR)
    both = {role: torch.cat([value, value], 0 if role == "down" else 1) for role, value in doubled.tensors.items()}
    made, energy = resize({"a": Adapter("lora", both, 8.0, 16, "unet")}, Limit(keep=1.0))
    assert made["a"].rank == 8 and energy["a"] == pytest.approx(1)
    zero = Adapter("lora", {"down": torch.zeros(4, 24), "up": torch.zeros(40, 4)}, 4.0, 4, "unet")
    made, energy = resize({"a": zero}, Limit(rank=2))
    assert made["a"].rank == 1 and energy["a"] == 1.0 and not delta(made["a"], torch.zeros(LINEAR)).any()


def test_dora_keeps_its_magnitudes():
    adapter = lora(LINEAR, dora_scale=numbers(40, 1).abs(), diff_b=numbers(40))
    small = resize({"a": adapter}, Limit(rank=3))[0]["a"]
    assert small.rank == 3 and small.tensors["dora_scale"] is adapter.tensors["dora_scale"] and "diff_b" in small.tensors
    bare = resize({"a": lora(LINEAR)}, Limit(rank=3))[0]["a"]
    assert torch.equal(small.tensors["up"], bare.tensors["up"])


def test_what_depends_on_the_base_needs_the_base():
    turn = Adapter("oft", {"blocks": numbers(10, 4, 4) * 0.05}, 0.0, 0, "unet")
    with pytest.raises(UserError, match="Name the base"):
        resize({"a": turn}, Limit(rank=4))
    weight = numbers(*LINEAR)
    made, energy = resize({"a": turn}, Limit(keep=1.0), weight_of={"a": weight}.get)
    assert torch.allclose(delta(made["a"], weight), delta(turn, weight), atol=1e-5) and energy["a"] == pytest.approx(1)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"keep": 0.0}, {"keep": 1.5}, {"fro": -0.1}])
def test_limits_that_make_no_sense_are_sentences(wrong):
    with pytest.raises(UserError):
        Limit(**wrong)


@pytest.mark.parametrize("wrong", [1.0000001, -1e-9, 1 + 2**-52])
def test_a_number_out_of_range_is_told_as_it_is(wrong):
    with pytest.raises(UserError) as caught:
        Limit(keep=wrong)
    assert not 0 < float(caught.value.message.rpartition(" ")[2].rstrip(".")) <= 1


def test_the_randomized_svd_is_as_good_and_always_the_same():
    matrix = numbers(900, 40) @ torch.diag(0.9 ** torch.arange(40)) @ numbers(40, 700, seed=1) + 0.01 * numbers(900, 700)
    u, s, v = of_matrix(matrix, 16)
    assert torch.allclose(s[:16], torch.linalg.svdvals(matrix)[:16], rtol=1e-4)
    assert all(torch.equal(one, other) for one, other in zip((u, s, v), of_matrix(matrix, 16), strict=True))
