"""Whole files in, whole files out: what the reports say is what the files do."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sdlora.config import LoraChoice
from sdlora.errors import UserError
from sdlora.lora.formats import reading, writing
from sdlora.lora.formats.header import header
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.formats.writing import diffusers_holds
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.delta import Adapter, delta
from sdlora.lora.math.low_rank import Limit
from sdlora.lora.tools import convert
from sdlora.lora.tools.convert import to_form
from tests.lora.blended import blend
from tests.lora.formats.test_layout import PAIRS
from tests.lora.formats.test_writing import CONV, LINEAR, POINT, SQUARE, TABLE, TEXT, adapter, numbers
from tests.lora.spellings import every_spelling

WEIGHTS = {f"{path}.weight": numbers(*TABLE[path], seed=9) for path in (LINEAR, SQUARE, CONV, POINT, TEXT)}
TOLD = {"ss_output_name": "glass", "sdlora_trigger": "gls", "sshs_model_hash": "0" * 64}


def made(where, kinds, name="a", **options):
    adapters = {path: adapter(kind, path) for path, kind in kinds.items()}
    return writing.write(where / f"{name}.safetensors", adapters, TOLD, dtype="fp32", family="mini", **options)


def changes(path):
    return {name: delta(each, WEIGHTS[f"{name}.weight"]) for name, each in reading.read(path).adapters.items()}


def assert_same_changes(first, second, tolerance=1e-5):
    ours, theirs = changes(first), changes(second)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], atol=tolerance * float(theirs[name].abs().max())), name


def test_there_and_back_is_the_same_lora(tmp_path):
    path = made(tmp_path, {LINEAR: "lora", SQUARE: "lora", CONV: "lora", TEXT: "lora"})
    there = convert.convert_file(path, tmp_path / "b.safetensors", "diffusers")
    back = convert.convert_file(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "kohya")
    for report in (there, back):
        assert (report["modules_in"], report["modules_out"], report["difference"]) == (4, 4, 0.0), report
        assert report["approximated"] == {} and report["left_out"] == []
    assert there["alpha"].endswith("exactly") and back["alpha"] == "alpha stays as data"
    assert_same_changes(path, tmp_path / "c.safetensors", 0)
    told = header(tmp_path / "c.safetensors").metadata
    assert told["sdlora_trigger"] == "gls" and told["ss_base_model_version"] == "sdlora_mini"
    assert "lora_adapter_metadata" not in told and told["sshs_model_hash"] != "0" * 64


def test_every_kind_survives_a_kohya_file_and_its_report_is_honest(tmp_path):
    path = made(tmp_path, {LINEAR: "loha", SQUARE: "oft", CONV: "tucker", POINT: "lokr", TEXT: "dora"})
    report = convert.convert_file(path, tmp_path / "b.safetensors", "kohya")
    assert report["difference"] == 0.0 and report["modules_out"] == 5 and report["approximated"] == {}
    assert_same_changes(path, tmp_path / "b.safetensors", 0)
    with pytest.raises(UserError, match="--base"):
        convert.convert_file(path, tmp_path / "c.safetensors", "diffusers")
    report = convert.convert_file(path, tmp_path / "c.safetensors", "diffusers", weights=WEIGHTS)
    assert set(report["approximated"]) == {SQUARE} and report["approximated"][SQUARE] >= 0.99
    assert report["difference"] < 1e-5 and report["modules_out"] == 5
    assert "dora_scale" in reading.read(tmp_path / "c.safetensors").adapters[TEXT].tensors
    plain = convert.convert_file(path, tmp_path / "d.safetensors", "kohya", plain=True, weights=WEIGHTS, limit=Limit(keep=1.0))
    assert {each.kind for each in reading.read(tmp_path / "d.safetensors").adapters.values()} == {"lora"}
    assert set(plain["approximated"]) == {SQUARE, TEXT}
    assert_same_changes(path, tmp_path / "d.safetensors", 1e-4)


def test_a_report_calls_nothing_a_copy_that_was_approximated(tmp_path):
    mixed = made(tmp_path, {LINEAR: "lora", SQUARE: "oft"})
    report = convert.convert_file(mixed, tmp_path / "b.safetensors", "diffusers", weights=WEIGHTS)
    assert report["alpha"].startswith("1 are rewritten") and report["difference"] is not None
    alone = made(tmp_path, {SQUARE: "oft"})
    report = convert.convert_file(alone, tmp_path / "b.safetensors", "diffusers", weights=WEIGHTS)
    assert report["alpha"] == "all are rewritten as up x down" and report["difference"] is None


def test_a_rounded_file_says_how_far_it_is_off(tmp_path):
    path = made(tmp_path, {LINEAR: "lora"})
    report = convert.convert_file(path, tmp_path / "b.safetensors", "kohya", dtype="bf16")
    off = (changes(path)[LINEAR] - changes(tmp_path / "b.safetensors")[LINEAR]).norm() / changes(path)[LINEAR].norm()
    assert report["difference"] == pytest.approx(float(off), rel=1e-4) and 1e-5 < report["difference"] < 0.02


def test_resizing_reports_every_block(tmp_path):
    path = made(tmp_path, {LINEAR: "lora", SQUARE: "lora", TEXT: "lora"})
    report = convert.resize_file(path, tmp_path / "b.safetensors", Limit(rank=2))
    assert (report["ranks_before"], report["ranks_after"]) == ([4, 4], [2, 2]) and report["bytes_out"] < report["bytes_in"]
    before, after = changes(path), changes(tmp_path / "b.safetensors")

    def kept(paths):
        return 1 - sum(float((before[p] - after[p]).square().sum()) for p in paths) / sum(
            float(before[p].square().sum()) for p in paths)

    assert report["blocks"] == {"BASE": pytest.approx(kept([TEXT]), rel=1e-4),
                                "IN01": pytest.approx(kept([LINEAR, SQUARE]), rel=1e-4)}
    assert report["energy"] == pytest.approx(kept([TEXT, LINEAR, SQUARE]), rel=1e-4)
    told = header(tmp_path / "b.safetensors").metadata
    assert told["ss_network_dim"] == "2" and json.loads(told["sdlora_recipe"])["sources"][0]["name"] == "a"
    both = made(tmp_path, {LINEAR: "lora"}, "d", dialect="diffusers")
    convert.resize_file(both, tmp_path / "e.safetensors", Limit(rank=2))
    assert reading.read(tmp_path / "e.safetensors").dialect == "diffusers"


def test_what_a_file_says_of_its_network_is_true_of_what_was_made_of_it(tmp_path):
    said = {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "loha"}', "ss_network_dim": "99"}
    loha = writing.write(tmp_path / "a.safetensors", {LINEAR: adapter("loha", LINEAR)}, said, dtype="fp32", family="mini")
    convert.convert_file(loha, tmp_path / "same.safetensors", "kohya")
    told = header(tmp_path / "same.safetensors").metadata
    assert told["ss_network_module"] == "lycoris.kohya" and told["ss_network_dim"] == str(adapter("loha", LINEAR).rank)
    convert.convert_file(loha, tmp_path / "plain.safetensors", "kohya", plain=True)
    convert.resize_file(loha, tmp_path / "small.safetensors", Limit(rank=2))
    for name in ("plain", "small"):
        told = header(tmp_path / f"{name}.safetensors").metadata
        rank, = {each.rank for each in reading.read(tmp_path / f"{name}.safetensors").adapters.values()}
        assert (told["ss_network_module"], told["ss_network_args"], told["ss_network_dim"]) == ("networks.lora", "{}", str(rank))


def test_block_weights_are_refused_where_blocks_are_not_known(tmp_path):
    odd = {"mid_block.attentions.0.proj_in": Adapter("lora", {"up": numbers(7, 2), "down": numbers(2, 77)}, 2.0, 2, "unet")}
    path = writing.write(tmp_path / "odd.safetensors", odd, {}, family="sd1")
    with pytest.raises(UserError, match="odd.safetensors does not say"):
        convert.merge_files([LoraChoice(file=str(path), blocks="OUTALL")], tmp_path / "b.safetensors")


@pytest.mark.parametrize("method", ["concat", "svd"])
def test_a_blend_of_files_is_one_file(tmp_path, method):
    first, second = made(tmp_path, {LINEAR: "lora", TEXT: "lora"}), made(tmp_path, {LINEAR: "loha", SQUARE: "lora"}, "b")
    choices = [LoraChoice(file=str(first), strength=0.7, text_strength=0.2), LoraChoice(file=str(second), strength=-0.5,
                                                                                       blocks="OUTALL", end=0.5)]
    report = convert.merge_files(choices, tmp_path / "c.safetensors", method=method)
    assert report["modules"] == 2 and any("Start and end" in note and "b.safetensors" in note for note in report["notes"])
    told = header(tmp_path / "c.safetensors").metadata
    recipe = json.loads(told["sdlora_recipe"])
    assert [source["strength"] for source in recipe["sources"]] == [0.7, -0.5] and recipe["method"] == method
    hashes = [header(path).metadata["sshs_model_hash"][:12] for path in (first, second)]
    assert [source["hash"] for source in recipe["sources"]] == hashes
    assert told["modelspec.merged_from"] == "glass, glass" and "0" * 64 not in told["sshs_model_hash"]
    wanted = blend([Ingredient(reading.read(first).adapters, 0.7, 0.2)], {p: WEIGHTS[f"{p}.weight"] for p in (LINEAR, TEXT)})
    found = reading.read(tmp_path / "c.safetensors").adapters
    error = {p: float((WEIGHTS[f"{p}.weight"] + delta(each, WEIGHTS[f"{p}.weight"]) - wanted[p]).abs().max())
             for p, each in found.items()}
    assert method == "concat" or report["ranks"] == [4, 4]     # no rank was given: the largest of the files
    assert max(error.values()) < 1e-5 and report["energy"] == pytest.approx(1)  # the block weights leave the second out


@pytest.mark.parametrize(("family", "spelling"), [(family, name) for family in ("sd1", "sdxl") for name in every_spelling(
    PAIRS[family], family)])
def test_every_spelling_becomes_both_forms(tmp_path, family, spelling):
    """Whatever a file was spelled like, both forms of it make the same change of every weight."""
    tensors, told, *_ = every_spelling(PAIRS[family], family)[spelling]
    save_file(tensors, tmp_path / "a.safetensors", told)
    meant, table = reading.read(tmp_path / "a.safetensors").adapters, family_table(family)
    for dialect in ("kohya", "diffusers"):
        report = convert.convert_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dialect)
        again = reading.read(tmp_path / "b.safetensors")
        assert again.dialect == dialect and report["modules_in"] == report["modules_out"] == len(meant) >= 3
        assert report["difference"] < 1e-6 and report["left_out"] == [] and again.adapters.keys() == meant.keys()
        for path in [path for path in meant if table[path] in ((320, 320), (640, 640), (768, 768))]:
            wanted = delta(meant[path], torch.zeros(table[path]))
            found = delta(again.adapters[path], torch.zeros(table[path]))
            assert torch.allclose(found, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max())), path


def test_files_that_do_not_go_together_are_sentences(tmp_path):
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    other = writing.write(tmp_path / "xl.safetensors", {path: Adapter(
        "lora", {"down": torch.ones(2, 2048), "up": torch.ones(640, 2)}, 2.0, 2, "unet")}, {}, family="sdxl")
    choices = [LoraChoice(file=str(made(tmp_path, {LINEAR: "lora"}))), LoraChoice(file=str(other))]
    with pytest.raises(UserError, match="different kinds of base"):
        convert.merge_files(choices, tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


def peft(folder, rank=4, alpha=16, **config):
    """A file of PEFT with its configuration beside it."""
    folder.mkdir(exist_ok=True)
    out, width = TABLE[LINEAR]
    name = f"base_model.model.{LINEAR}"
    save_file({f"{name}.lora_A.weight": numbers(rank, width), f"{name}.lora_B.weight": numbers(out, rank)},
              folder / "adapter_model.safetensors", {"ss_network_dim": "128", "ss_network_alpha": "64"})
    told = {"r": rank, "lora_alpha": alpha, "base_model_name_or_path": "/home/me/x"} | config
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder / "adapter_model.safetensors"


@pytest.mark.parametrize(("config", "alpha"), [
    ({}, 16.0), ({"use_rslora": True}, 32.0), ({"alpha_pattern": {"to_q|to_k": 2}}, 2.0)])
def test_what_is_told_of_rank_and_alpha_is_true_of_the_new_tensors(tmp_path, config, alpha):
    path = peft(tmp_path / "p", **config)
    for dialect, dtype, told_alpha in (("kohya", None, alpha), ("kohya", "fp16", alpha), ("diffusers", None, 4.0)):
        convert.convert_file(path, tmp_path / "out.safetensors", dialect, dtype=dtype)
        told, again = header(tmp_path / "out.safetensors").metadata, reading.read(tmp_path / "out.safetensors")
        adapter, = again.adapters.values()
        assert (int(told["ss_network_dim"]), float(told["ss_network_alpha"])) == (adapter.rank, adapter.alpha) == (4, told_alpha)
        assert_same_changes(path, tmp_path / "out.safetensors", 1e-3)
    convert.resize_file(path, tmp_path / "out.safetensors", Limit(rank=8))
    told, again = header(tmp_path / "out.safetensors").metadata, reading.read(tmp_path / "out.safetensors")
    adapter, = again.adapters.values()
    assert (int(told["ss_network_dim"]), float(told["ss_network_alpha"])) == (adapter.rank, adapter.alpha)


def weight(path):
    return numbers(*TABLE[path], seed=9)


@pytest.mark.parametrize(("kind", "path"), [("lora", LINEAR), ("tucker", CONV), ("loha", LINEAR), ("lokr", LINEAR)])
def test_few_ranks_are_expanded_exactly_without_a_base(kind, path):
    meant = adapter(kind, path)
    made = to_form({path: meant}, "plain", shapes=TABLE)
    assert made.energy == {} and diffusers_holds(made.adapters[path])
    assert made.expanded == (() if kind == "lora" else (path,)) and (kind != "lora" or made.adapters[path] is meant)
    assert torch.allclose(delta(made.adapters[path], weight(path)), delta(meant, weight(path)), atol=1e-5)


@pytest.mark.parametrize(("kind", "path"), [("dora", LINEAR), ("dora", CONV), ("oft", SQUARE), ("ia3", SQUARE),
                                            ("glora", SQUARE)])
def test_what_depends_on_the_base_is_approximated_on_it(kind, path):
    meant, given = adapter(kind, path), {path: weight(path)}
    with pytest.raises(UserError, match="--base"):
        to_form({path: meant}, "plain", shapes=TABLE)
    made = to_form({path: meant}, "plain", limit=Limit(rank=8), weight_of=given.get)
    change = delta(meant, given[path]).double().flatten(1)
    values = torch.linalg.svdvals(change).square()
    assert 4 <= made.adapters[path].rank <= 8
    assert made.energy[path] == pytest.approx(float(values[:8].sum() / values.sum()), rel=1e-4)
    error = (delta(made.adapters[path], given[path]).double().flatten(1) - change).square().sum() / values.sum()
    assert float(error) == pytest.approx(1 - made.energy[path], abs=1e-5)
    full = to_form({path: meant}, "plain", limit=Limit(keep=1.0), weight_of=given.get).adapters[path]
    assert torch.allclose(delta(full, given[path]), delta(meant, given[path]), atol=1e-4)


def test_dora_may_stay_dora():
    meant = {LINEAR: adapter("dora", LINEAR), CONV: adapter("dora", CONV)}
    assert to_form(meant, "diffusers", shapes=TABLE).adapters == meant
    loha = Adapter("loha", adapter("loha", LINEAR).tensors | {"dora_scale": numbers(TABLE[LINEAR][0], 1).abs()}, 2.0, 4, "unet")
    made = to_form({LINEAR: loha}, "diffusers", shapes=TABLE).adapters[LINEAR]
    assert made.kind == "lora" and torch.allclose(delta(made, weight(LINEAR)), delta(loha, weight(LINEAR)), atol=1e-5)
    on_input = adapter("lora", LINEAR).tensors | {"dora_scale": numbers(1, TABLE[LINEAR][1]).abs()}
    with pytest.raises(UserError, match="--base"):
        to_form({LINEAR: Adapter("lora", on_input, 2.0, 4, "unet")}, "diffusers", shapes=TABLE)


def test_a_part_with_some_dora_gets_magnitudes_that_change_nothing():
    meant = {LINEAR: adapter("dora", LINEAR), CONV: adapter("lora", CONV)}
    with pytest.raises(UserError, match="Some modules are DoRA"):
        to_form(meant, "diffusers", shapes=TABLE)
    given = {path: weight(path) for path in meant}
    made = to_form(meant, "diffusers", weight_of=given.get).adapters
    assert made[LINEAR] is meant[LINEAR] and "dora_scale" in made[CONV].tensors
    assert torch.allclose(delta(made[CONV], given[CONV]), delta(meant[CONV], given[CONV]), atol=1e-5)


def test_norms_and_biases_are_left_out_by_name():
    biased = Adapter("lora", adapter("lora", LINEAR).tensors | {"diff_b": numbers(4)}, 2.0, 4, "unet")
    norm = Adapter("full", {"diff": numbers(8), "diff_b": numbers(8)}, 0.0, 0, "unet")
    made = to_form({LINEAR: biased, "conv_norm_out": norm}, "plain", shapes=TABLE)
    assert made.adapters.keys() == {LINEAR}
    assert made.left_out == (f"{LINEAR} (bias)", "conv_norm_out (bias)", "conv_norm_out (norm)")
    with pytest.raises(UserError, match="norms and biases only"):
        to_form({"conv_norm_out": norm}, "plain")


def test_a_kohya_file_keeps_all_that_it_has_names_for():
    """PEFT's OFT turns the inputs, for which kohya files have no name; its neighbours stay what they are."""
    turn = torch.linalg.qr(torch.eye(16) + numbers(TABLE[SQUARE][1] // 16, 16, 16) / 8).Q
    odd = Adapter("oft", {"inputs": turn}, 0.0, 0, "unet")
    meant = {SQUARE: odd, LINEAR: adapter("loha", LINEAR), CONV: adapter("full", CONV)}
    with pytest.raises(UserError, match="--base"):
        to_form(meant, "kohya", shapes=TABLE)
    made = to_form(meant, "kohya", limit=Limit(keep=1.0), weight_of={SQUARE: weight(SQUARE)}.get, shapes=TABLE)
    assert made.adapters[LINEAR] is meant[LINEAR] and made.adapters[CONV] is meant[CONV] and made.expanded == (SQUARE,)
    assert torch.allclose(delta(made.adapters[SQUARE], weight(SQUARE)), delta(odd, weight(SQUARE)), atol=1e-4)
