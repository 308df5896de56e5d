"""The dry run: what it promises, what it learns from runs, and that it never needs torch."""

import subprocess
import sys

import pytest

from sdlora.config import TrainConfig, from_preset
from sdlora.errors import UserError
from sdlora.storage import home
from sdlora.train import plan as planning
from sdlora.train.plan import fit_settings, plan, refuse_full_disk
from sdlora.train.speed import Speed, expected_speed, record_speed


def share(found, config, picture_seconds):
    drawing = len(found.samples) * found.prompts_per_sample * picture_seconds
    return drawing / (found.minutes * 60)


@pytest.mark.parametrize("preset", ["quick", "normal", "thorough"])
@pytest.mark.parametrize("family", ["mini", "sd1", "sdxl"])
def test_presets_sample_in_less_than_a_fifth(preset, family):
    config = from_preset(preset, family, 12)
    found = plan(config, 12, family)
    speed, _ = expected_speed(family, "cpu", config.batch_size, {"mini": 128, "sd1": 512, "sdxl": 1024}[family])
    assert share(found, config, speed.draw_step * config.sample_steps) < 0.21
    assert found.samples[0] == 0 and found.samples[-1] == config.steps and len(found.samples) <= 9
    assert found.prompts_per_sample >= 2 and found.steps == config.steps


def test_quick_on_mini_is_promised_in_two_minutes():
    found = plan(from_preset("quick", "mini", 12), 12, "mini")
    assert found.minutes < 2 and found.disk_mb < 50 and found.memory_mb < 2000


def test_fewer_prompts_first_then_fewer_times():
    counts = []
    for seconds in (0.001, 0.02, 0.035, 0.06, 0.1, 0.5, 2, 20):
        record_speed("mini", "cpu", 4, 128, Speed(0.1, seconds, 10.0))
        found = plan(TrainConfig(steps=800, batch_size=4, sample_every=100), 12, "mini")
        counts.append((len(found.samples), found.prompts_per_sample))
        (home() / "speed.json").unlink()
    times, prompts = zip(*counts, strict=True)
    assert counts[0] == (9, 4) and counts[-1] == (2, 1)
    assert list(times) == sorted(times, reverse=True) and list(prompts) == sorted(prompts, reverse=True)
    assert any(time == 9 and prompt < 4 for time, prompt in counts), counts
    assert all(prompt == 2 or time in (2, 9) for time, prompt in counts), counts


def test_at_most_eight_times_and_the_last_step_always():
    found = plan(TrainConfig(steps=1003, sample_every=10, batch_size=4), 12, "mini")
    assert len(found.samples) == 9 and found.samples[-1] == 1003
    assert all(step % 10 == 0 for step in found.samples[:-1])
    assert plan(TrainConfig(steps=1, sample_every=100), 3, "mini").samples == (0, 1)


def test_samples_are_spread_over_the_whole_of_a_long_run():
    samples = plan(TrainConfig(steps=20_000, sample_every=1), 3, "mini").samples
    gaps = [late - early for early, late in zip(samples, samples[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_says_when_it_would_take_days():
    found = plan(TrainConfig(steps=20_000, batch_size=16), 40, "sdxl")
    assert found.minutes > 60 * 24 and any("hours" in note for note in found.notes)


def test_needs_no_torch():
    code = "import sys, sdlora.train.plan, sdlora.train.checkpoint_files, sdlora.train.events; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("settings", "pictures", "used", "said"), [
    ({"steps": 30, "warmup_steps": 500}, 12, {"warmup_steps": 3}, ["The warm-up takes 3 steps instead of 500"]),
    ({"steps": 5, "warmup_steps": 1}, 12, {"warmup_steps": 0}, ["The warm-up takes 0 steps instead of 1"]),
    ({"batch_size": 64}, 3, {"batch_size": 3}, ["The batch size is 3 instead of 64"]),
    ({"batch_size": 12}, 12, {"batch_size": 11}, ["The batch size is 11 instead of 12"]),  # one picture is held out
    ({"batch_size": 11}, 11, {"batch_size": 11}, []), ({"steps": 200, "warmup_steps": 20}, 12, {"warmup_steps": 20}, []),
])
def test_what_is_too_large_for_the_run_is_reduced_and_told(settings, pictures, used, said):
    config, notes = fit_settings(TrainConfig(**settings), pictures - (pictures >= 12))
    assert config == TrainConfig(**{**settings, **used}) and [note.split(":")[0] for note in notes] == said
    found = plan(TrainConfig(**settings), pictures, "mini").notes
    assert [note for note in found if "instead of" in note] == notes


def test_sample_prompts_are_checked_beforehand():
    found = plan(TrainConfig(steps=600, sample_prompts=("time (12:30)", "a [cat:dog:3]", "a boat")), 3, "mini")
    assert any('left out. The prompt "time (12:30)" cannot be drawn. A word in the prompt has the weight 30' in note
               for note in found.notes)
    assert any("[cat:dog:3] changes words" in note for note in found.notes) and found.prompts_per_sample <= 2


@pytest.mark.parametrize(("free", "refused"), [(22 * 2**20 - 1, "21 MB left and this run needs 22 MB"), (22 * 2**20, "")])
def test_the_disk_is_refused_by_the_number_that_is_shown(monkeypatch, tmp_path, free, refused):
    monkeypatch.setattr(planning, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    planned = planning.Plan(10, 1.0, 100, 22, (0, 10), 1, False, ())
    if refused:
        with pytest.raises(UserError, match=refused):
            refuse_full_disk(planned, tmp_path)
    else:
        refuse_full_disk(planned, tmp_path)
