"""The held-out loss: always the same question, and only from 12 pictures on."""

import torch

from sdlora.train.cache import Items
from sdlora.train.loss import Denoiser
from sdlora.train.validation import held_out_index, held_out_loss

ABAR = torch.linspace(0.999, 0.001, 1000)


def item():
    return Items(torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), {"states": torch.zeros(2, 3, 5)}, [0], [1], 32)


def test_holds_out_one_picture_from_twelve_on():
    digests = [f"{number:02d}" for number in range(12)]
    assert held_out_index(digests[:11]) is None
    assert held_out_index(digests) == 0 and held_out_index(digests[::-1]) == 11


def test_asks_the_same_question_every_time_and_leaves_other_dice_alone():
    asked = []

    def predict(noisy, timesteps, features, size_px):
        asked.append((noisy.clone(), timesteps.clone()))
        assert len(features["states"]) == len(noisy)
        return noisy

    before = torch.get_rng_state()
    first = held_out_loss(Denoiser(predict, ABAR), item())
    assert held_out_loss(Denoiser(predict, ABAR), item()) == first
    assert torch.equal(asked[0][0], asked[1][0]) and torch.equal(torch.get_rng_state(), before)
    assert asked[0][1].tolist() == [62, 187, 312, 437, 562, 687, 812, 937]


def test_a_perfect_answer_costs_nothing():
    seen = {}

    def predict(noisy, timesteps, features, size_px):
        abar = ABAR[timesteps].view(-1, 1, 1, 1)
        seen["noise"] = (noisy - abar.sqrt()) / (1 - abar).sqrt()
        return seen["noise"]

    assert held_out_loss(Denoiser(predict, ABAR), item()) < 1e-8
    assert seen["noise"].std() > 0.9
