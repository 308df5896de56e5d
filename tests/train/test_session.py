"""Whole runs on the tiny base: from a folder of pictures to a file that others open; stopped, named, judged."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from sdlora.base.load import load_base
from sdlora.config import DrawConfig
from sdlora.dataset import child, picture_cache, sets, upload
from sdlora.draw.pipeline import draw
from sdlora.errors import UserError
from sdlora.storage import home
from sdlora.train import events, session
from sdlora.train.checkpoint_files import OK, checkpoint_folder, checkpoint_steps, export_checkpoint
from sdlora.train.speed import Speed
from tests import tiny

FEW = {"steps": 6, "save_every": 3, "sample_every": 3, "sample_prompts": ["a [trigger] house"]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny")
    return tiny.write_base(place / "base"), tiny.write_pictures(place / "pictures", 4)


@pytest.fixture
def make(folders):
    """A run folder of 6 steps."""
    return lambda name="run", images=folders[1], **settings: tiny.write_run(
        home() / "runs" / name, folders[0], images, **{**FEW, **settings})


def train(folder, command="pause", at=None):
    """All events of a run that is asked to pause or stop as soon as `at` is among them (an event's type and step)."""
    found = []
    control = lambda: command if any((type(event), event.step) == at for event in found) else None  # noqa: E731
    for event in session.run_training(folder, control=control):
        found.append(event)
    return found


def named(found, kind):
    return [event for event in found if isinstance(event, kind)]


@pytest.fixture(autouse=True)
def same_plan(monkeypatch):
    """What a run measured must not decide about the columns of the next one within a test."""
    monkeypatch.setattr(session, "expected_speed", lambda *_: (Speed(1.0, 0.001, 1.0), False))
    monkeypatch.setattr("sdlora.train.plan.expected_speed", lambda *_: (Speed(1.0, 0.001, 1.0), False))


def tensors(done):
    return load_file(done.file)


def test_pictures_in_file_out(make):
    folder = make(sample_prompts=[])
    found = train(folder)
    done = found[-1]
    assert isinstance(done, events.Done) and (done.step, done.steps, done.run) == (6, 6, "run")
    assert Path(done.file) == home() / "loras" / "tiny.safetensors"
    assert [event.step for event in named(found, events.Step)] == [1, 2, 3, 4, 5, 6]
    assert [event.seconds_left for event in named(found, events.Step)][-1] == 0
    assert named(found, events.Prepared)[0].pictures == 4 and named(found, events.Prepared)[0].held_out is None
    assert [event.path for event in named(found, events.Saved)] == ["checkpoints/step-000003", "checkpoints/step-000006"]
    samples = named(found, events.Sample)
    assert {sample.step for sample in samples} == {0, 3, 6} and all((folder / sample.path).exists() for sample in samples)
    assert any("tny" not in sample.prompt for sample in samples) and samples[0].prompt == "tny, a red house"
    with safe_open(done.file, "pt") as opened:
        assert opened.metadata()["ss_base_model_version"] == "sdlora_mini"
        assert opened.metadata()["sdlora_trigger"] == "tny"
    assert any(value.abs().max() > 0 for name, value in tensors(done).items() if "lora_up" in name)
    assert json.loads((home() / "loras" / "tiny.json").read_text())["activation text"] == "tny"
    assert Image.open(home() / "loras" / "tiny.png").size == (64, 64)
    assert (home() / "speed.json").exists()


def test_the_first_column_is_the_untouched_base_and_the_last_is_not(make):
    folder = make(learning_rate=0.1)
    samples = named(train(folder), events.Sample)
    columns = [Image.open(folder / sample.path).tobytes() for sample in samples if sample.prompt_index == 0]
    assert len(columns) == 3 and columns[0] != columns[-1]
    base = load_base(json.loads((folder / "spec.json").read_text())["config"]["base"], "cpu")
    wanted = DrawConfig(prompts=(samples[0].prompt,), seed=samples[0].seed, steps=2)
    assert list(draw(base, wanted))[-1].image.tobytes() == columns[0]


def test_stop_writes_the_file_of_this_moment(make):
    folder = make(steps=500, sample_every=200, save_every=200)
    found = train(folder, "stop", at=(events.Step, 5))
    done = found[-1]
    assert isinstance(done, events.Done) and done.step == 5 and Path(done.file).exists()
    point = load_file(checkpoint_folder(folder, done.step) / "lora.safetensors")
    assert all(torch.equal(value, point[name]) for name, value in tensors(done).items())


def test_stop_before_anything_was_learned_says_so(make):
    with pytest.raises(UserError, match="changes nothing"):
        train(make(), "stop", at=(events.Preparing, 0))
    assert not list((home() / "loras").glob("*.safetensors"))


def test_every_sampled_point_can_be_downloaded(make):
    folder = make(steps=8, sample_every=2, save_every=100)
    done = train(folder)[-1]
    assert checkpoint_steps(folder) == [2, 4, 6, 8] and len(checkpoint_steps(folder, OK)) == 2
    files = [load_file(export_checkpoint(folder, step)) for step in (2, 4, 6, 8)]
    assert all(torch.equal(value, files[-1][name]) for name, value in tensors(done).items())
    name = next(name for name in files[0] if name.endswith("lora_up.weight"))
    assert len({tuple(file[name].flatten().tolist()) for file in files}) == 4


def test_a_taken_name_gets_a_number_and_out_is_obeyed(make, tmp_path):
    (home() / "loras").mkdir()
    (home() / "loras" / "tiny.safetensors").write_bytes(b"somebody else's")
    assert Path(train(make("one", steps=2))[-1].file).name == "tiny-2.safetensors"
    folder = make("two", steps=2)
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps({**spec, "out": str(tmp_path / "deep" / "mine.safetensors")}))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "mine.json").write_text('{"not": "ours"}')
    assert Path(train(folder)[-1].file) == tmp_path / "deep" / "mine.safetensors"
    assert json.loads((tmp_path / "deep" / "mine.json").read_text()) == {"not": "ours"}


def test_twelve_pictures_hold_one_out(make, tmp_path):
    found = train(make(images=tiny.write_pictures(tmp_path / "twelve", 12)))
    prepared = named(found, events.Prepared)[0]
    assert prepared.pictures == 11 and prepared.held_out.endswith(".png")
    assert [event.step for event in named(found, events.Validated)] == [0, 3, 6]


def test_a_bad_picture_costs_one_picture(make, tmp_path):
    images = tiny.write_pictures(tmp_path / "pictures", 3)
    (images / "01.png").write_bytes(b"not a picture")
    found = train(make(images=images, steps=1))
    prepared = named(found, events.Prepared)[0]
    assert prepared.pictures == 2 and prepared.skipped[0][0] == "01.png" and isinstance(found[-1], events.Done)


def test_a_sample_that_does_not_fit_costs_no_run(make, monkeypatch):
    def refuse(*_, **__):
        raise UserError("There is not enough memory to draw.", "")
        yield

    monkeypatch.setattr("sdlora.train.samples.draw", refuse)
    found = train(make())
    assert isinstance(found[-1], events.Done) and named(found, events.Notice) and not named(found, events.Sample)


def test_large_parts_leave_memory_and_come_back_for_samples(make, monkeypatch):
    expected = tensors(train(make("small"))[-1])
    monkeypatch.setattr("sdlora.train.samples.SMALL_BYTES", 0)
    seen, holder = [], {}
    real_load, real_loss = session.load_base, session.loop.denoising_loss

    def watched(*inputs):
        seen.append((holder["base"].vae, holder["base"].text_encoders))
        return real_loss(*inputs)

    monkeypatch.setattr(session, "load_base", lambda *a, **k: holder.setdefault("base", real_load(*a, **k)))
    monkeypatch.setattr(session.loop, "denoising_loss", watched)
    found = train(make("large"))
    assert seen == [(None, [])] * 6 and len(named(found, events.Sample)) == 3
    assert all(torch.equal(value, expected[name]) for name, value in tensors(found[-1]).items())


def test_large_parts_leave_memory_when_samples_fail(make, monkeypatch):
    seen, real_loss = [], session.loop.denoising_loss
    holder, real_load = {}, session.load_base
    monkeypatch.setattr("sdlora.train.samples.SMALL_BYTES", 0)
    monkeypatch.setattr("sdlora.train.samples.draw", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(session, "load_base", lambda *a, **k: holder.setdefault("base", real_load(*a, **k)))
    monkeypatch.setattr(session.loop, "denoising_loss", lambda *given: seen.append(holder["base"].vae) or real_loss(*given))
    found = train(make())
    assert seen == [None] * 6 and not named(found, events.Validated) and isinstance(found[-1], events.Done)


def test_samples_are_measured_and_the_run_is_judged(make):
    found = train(make(sample_prompts=["a [trigger] house", "a blue boat"]))
    looked = named(found, events.Validated)
    assert [each.step for each in looked] == [0, 3, 6] and looked[0].style == 0 and all(each.picture for each in looked)
    judged = named(found, events.Verdict)[0]
    assert judged.suggested in (3, 6) and judged.sentences[0].startswith("The style") and found.index(judged) == len(found) - 2


def test_the_recommended_strength_is_drawn_and_written_into_the_file(make, monkeypatch):
    monkeypatch.setattr(session.review, "STRENGTH_SHARE", 1e9)
    tried = []
    monkeypatch.setattr(session.review.verdict, "recommended", lambda found: tried.append(sorted(found)) or 0.8)
    folder = make()
    done = train(folder)[-1]
    assert tried == [[0.8, 1.0, 1.2]] and (folder / "strength-1.2" / "000006-0.png").exists()
    drawn = [(folder / name / "000006-0.png").read_bytes() for name in ("strength-0.8", "samples", "strength-1.2")]
    assert len(set(drawn)) == 3
    with safe_open(done.file, "pt") as file:
        assert file.metadata()["sdlora_strength"] == "0.8" and "strength 0.8" in file.metadata()["modelspec.usage_hint"]
    assert json.loads(Path(done.file).with_suffix(".json").read_text())["preferred weight"] == 0.8


def test_a_measurement_that_fails_costs_no_run(make, monkeypatch):
    monkeypatch.setattr("sdlora.train.validate.features", lambda *_: 1 / 0)
    found = train(make())
    assert isinstance(found[-1], events.Done) and not named(found, events.Validated)
    assert "could not be measured. ZeroDivisionError" in named(found, events.Notice)[-1].message


@pytest.fixture
def decodes(monkeypatch):
    """The names of the pictures that were decoded for training, in order: samples of the run are opened by another name."""
    asked, real = [], child.call

    def counted(module, data, name, *rest):
        asked.append(name)
        return real(module, data, name, *rest)

    monkeypatch.setattr(child, "call", counted)
    return lambda: sorted(name for name in asked if re.fullmatch(r"0\d\.png", name))


def test_a_run_decodes_each_picture_once_and_the_next_run_none(make, decodes):
    first = tensors(train(make("first"))[-1])
    assert decodes() == ["00.png", "01.png", "02.png", "03.png"]
    second = tensors(train(make("second"))[-1])
    assert len(decodes()) == 4 and all(torch.equal(first[name], value) for name, value in second.items())
    assert not picture_cache.SQUARES
    train(make("larger", resolution=96))
    assert len(decodes()) == 8


def test_a_run_on_a_set_decodes_each_picture_of_it_once(make, folders, monkeypatch, decodes):
    made = sets.create("Mine")
    upload.add_pictures(made.id, sorted(folders[1].iterdir()))
    asked, real = [], child.call
    monkeypatch.setattr(child, "call", lambda module, data, name, *rest: asked.append(name) or real(module, data, name, *rest))
    for number in range(2):
        train(make(f"run{number}", images=sets.path(made.id)))
        assert sorted(name for name in asked if re.fullmatch(r"0\d\.png", name)) == ["00.png", "01.png", "02.png", "03.png"]


def test_a_damaged_cache_of_pictures_costs_time_only(make):
    first = tensors(train(make("first"))[-1])
    shutil.rmtree(home() / "cache" / "latents")
    entries = sorted((home() / "cache" / "looks").glob("*.json"))
    assert len(entries) >= 4
    for number, entry in enumerate(entries):
        entry.write_bytes([b"", b"[1, 2]", b"{}", b"[1, 2, 3, 4]"][number % 4])
    second = tensors(train(make("second"))[-1])
    assert all(torch.equal(first[name], value) for name, value in second.items())


def test_a_run_goes_on_without_a_picture_that_was_exchanged_on_the_way(make, tmp_path, monkeypatch):
    pictures = tiny.write_pictures(tmp_path / "mine", 3)
    monkeypatch.setattr(picture_cache, "MAX_SQUARES_BYTES", 0)  # no room for squares: each picture is read again
    real = session.read_dataset

    def read_and_exchange(*arguments, **options):
        read = real(*arguments, **options)
        Image.new("RGB", (64, 64), (9, 9, 9)).save(pictures / "02.png")
        return read

    monkeypatch.setattr(session, "read_dataset", read_and_exchange)
    found = train(make(images=pictures))
    [prepared] = named(found, events.Prepared)
    assert prepared.pictures == 2 and [name for name, _ in prepared.skipped] == ["02.png"]
    assert "02.png was exchanged or changed" in prepared.skipped[0][1] and isinstance(found[-1], events.Done)
