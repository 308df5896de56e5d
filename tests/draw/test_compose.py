"""Which LoRA acts when: the plans by hand, and composed pictures against diffusers' UNet with PEFT's adapters."""

import pytest
import torch
from peft import LoraConfig
from torch import nn

from sdlora.base.load import load_base
from sdlora.config import DrawConfig
from sdlora.draw.compose import Mix, klora_scores, plan
from sdlora.draw.pipeline import denoise, predictor, steps_to_run
from sdlora.draw.session import session_of
from sdlora.draw.start import begin
from sdlora.errors import UserError
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.delta import Adapter
from tests import tiny

A, B, C = (Ingredient({}, name=name) for name in "ABC")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base(str(tiny.write_base(tmp_path_factory.mktemp("tiny") / "base")), "cpu")


def lora(base, seed, **settings):
    """A LoRA on every attention projection of the UNet and the text encoder, strong enough to see."""
    dice = torch.Generator().manual_seed(seed)
    adapters = {}
    for prefix, model in (("", base.unet), ("te1:", base.text_encoders[0])):
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear) and path.endswith(("to_q", "to_v", "q_proj")):
                out, into = module.weight.shape
                path = prefix + (path if not prefix or path.startswith("text_model.") else f"text_model.{path}")
                adapters[path] = Adapter("lora", {"down": torch.randn(2, into, generator=dice) * 0.5,
                                                  "up": torch.randn(out, 2, generator=dice) * 0.5}, 2.0, 2, prefix[:-1] or "unet")
    return Ingredient(adapters, name=f"LoRA {seed}", **settings)


def only(planned):
    return [[mix.unet for mix in step] for step in planned]


def test_start_and_end_are_shares_of_the_steps():
    planned = plan("sum", [A, Ingredient({}, start=0.25), Ingredient({}, end=0.5)], 4, 5)
    assert only(planned) == [[(1, 0, 1)], [(1, 1, 1)], [(1, 1, 0)], [(1, 1, 0)]]
    assert {mix.text for step in planned for mix in step} == {(1, 1, 1)}


def test_switch_takes_turns_the_first_first():
    planned = plan("switch", [A, B, C], 7, 2)
    assert only(planned) == [[(1, 0, 0)]] * 2 + [[(0, 1, 0)]] * 2 + [[(0, 0, 1)]] * 2 + [[(1, 0, 0)]]
    assert planned[2][0] == Mix((0, 1, 0), (0, 1, 0))
    late = plan("switch", [A, Ingredient({}, start=0.5)], 4, 1)
    assert only(late) == [[(1, 0)], [(1, 0)], [(1, 0)], [(0, 1)]]


def test_composite_asks_each_that_acts():
    assert only(plan("composite", [A, B], 1, 5)) == [[(1, 0), (0, 1)]]
    assert only(plan("composite", [A, Ingredient({}, start=0.5)], 2, 5)) == [[(1, 0)], [(1, 0), (0, 1)]]
    assert only(plan("composite", [], 1, 5)) == [[()]]


def test_the_style_takes_over_towards_the_end(base):
    """By hand for one module: rank 1, so each wants it by its largest entry; gamma is the ratio of all entries."""
    path = next(path for path, module in base.unet.named_modules() if path.endswith("attn1.to_q"))
    weight = base.unet.get_submodule(path).weight
    size = weight.shape[0]

    def pick(values):
        up = torch.tensor(values)[:, None]
        return Ingredient({path: Adapter("lora", {"up": up, "down": torch.eye(size)[:1]}, 1.0, 1, "unet")})

    style, subject = pick([3.0, 1.0] + [0.0] * (size - 2)), pick([10.0, 0.0] + [0.0] * (size - 2))
    scores = klora_scores(style, subject, lambda path: weight)
    assert scores[path] == pytest.approx((3.0, 10.0 / (10.0 / 4.0)))
    planned = plan("style-subject", [style, subject], 4, 5, lambda: scores)
    assert [mix.unet[0][path] for (mix,) in planned] == [0, 0, 0, 1]  # 3 x (0.5, 0.875, 1.25, 1.625) against 4
    assert all(mix.unet[0][path] + mix.unet[1][path] == 1 for (mix,) in planned)


def test_what_makes_no_plan_is_a_sentence():
    with pytest.raises(UserError, match="B never acts: it starts at 0.6 and ends at 0.6"):
        plan("sum", [A, Ingredient({}, start=0.6, end=0.6, name="B")], 4, 5)
    with pytest.raises(UserError, match="need two LoRAs, the style first; 3 are chosen"):
        plan("style-subject", [A, B, C], 4, 5)


def drawn(base, loras, **settings):
    config = DrawConfig(**{"steps": 4, "guidance": 3.0, "sampler": "Euler"} | settings)
    session, start = session_of(base), begin(base, config)
    session.load(loras)
    try:
        mixes = plan(config.method, session.loras, steps_to_run(config, start), config.switch_every, session.scores)
        predict = predictor(base, config, "a red house", start.size, session, mixes)
        return list(denoise(base, config, start, 1, predict))[-1].latents
    finally:
        session.clear()


def test_one_lora_is_itself_by_every_method(base):
    alone = drawn(base, [lora(base, 1)])
    assert not torch.allclose(alone, drawn(base, []), atol=0.1)
    for method in ("switch", "composite"):
        assert torch.equal(drawn(base, [lora(base, 1)], method=method), alone)


def test_methods_differ_and_leave_the_base_as_it_was(base):
    before = {name: tensor.clone() for model in (base.unet, *base.text_encoders) for name, tensor in model.state_dict().items()}
    pair = [lora(base, 1), lora(base, 2, strength=0.7)]
    made = [drawn(base, pair, method=method, switch_every=2) for method in ("sum", "switch", "composite", "style-subject")]
    assert all(not torch.allclose(one, other, atol=1e-3) for place, one in enumerate(made) for other in made[:place])
    assert torch.equal(drawn(base, pair, method="switch", switch_every=4), drawn(base, pair[:1]))
    for model in (base.unet, *base.text_encoders):
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_composite_is_the_mean_of_predictions_with_pefts_adapters(base):
    """LoRA Composite as its authors wrote it (one PEFT adapter after the other, predictions averaged), for a step."""
    pair = [lora(base, 1), lora(base, 2)]
    for one in pair:
        for path in [path for path in one.adapters if path.startswith("te1:")]:
            del one.adapters[path]
    config = DrawConfig(steps=1, guidance=3.0, method="composite")
    session, start = session_of(base), begin(base, config)
    session.load(pair)
    noisy, timestep = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor(500)
    with torch.no_grad():
        ours = predictor(base, config, "a red house", start.size, session, plan("composite", pair, 1, 5))(noisy, timestep, 0)
    session.clear()
    states = torch.cat([base.encode_text([text])["states"] for text in ("", "a red house")])
    unet = type(base.unet).from_config(base.unet.config)
    unet.load_state_dict(base.unet.state_dict())
    for name, one in zip("ab", pair, strict=True):
        unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]), name)
        for path, adapter in one.adapters.items():
            module = unet.get_submodule(path)
            module.lora_A[name].weight.data, module.lora_B[name].weight.data = adapter.tensors["down"], adapter.tensors["up"]
    guided = []
    for name in "ab":
        unet.set_adapters([name])
        with torch.no_grad():
            without, wanted = unet(noisy.expand(2, -1, -1, -1), timestep, states).sample.chunk(2)
        guided.append(without + 3.0 * (wanted - without))
    assert torch.allclose(ours, torch.stack(guided).mean(0), atol=1e-4)
