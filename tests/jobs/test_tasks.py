"""What the drawing process answers, about real small files on the tiny base."""

import pytest
import torch
from safetensors.torch import save_file

from sdlora.jobs import desk, tasks
from sdlora.lora.modules import family_table


@pytest.fixture
def lora(tmp_path):
    """One module of mini at rank 4."""
    path = next(path for path in family_table("mini") if path.endswith("attn1.to_q"))
    name, (rows, columns) = "lora_unet_" + path.replace(".", "_"), family_table("mini")[path]
    tensors = {f"{name}.lora_up.weight": torch.randn(rows, 4), f"{name}.lora_down.weight": torch.randn(4, columns),
               f"{name}.alpha": torch.tensor(2.0)}
    about = {"ss_network_module": "networks.lora", "modelspec.thumbnail": "data:" + "x" * 999}
    save_file(tensors, tmp_path / "one.safetensors", about)
    return tmp_path / "one.safetensors"


def asked(kind: str, payload: dict) -> desk.Answer:
    question = desk.submit(kind, payload)
    tasks.answer_all(lambda *_: None)
    return desk.view(question)


def test_the_report_of_a_file(lora):
    told = asked("report", {"id": "one", "file": str(lora)})
    assert told.state == "done", told.problem
    assert (told.result["rank"], told.result["alpha"], told.result["modules"], told.result["id"]) == (4, 2.0, 1, "one")
    assert "modelspec.thumbnail" not in told.result["metadata"]


def test_a_report_of_no_lora_is_a_sentence(tmp_path):
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    told = asked("report", {"id": "no", "file": str(tmp_path / "no.safetensors")})
    assert told.state == "failed" and "no.safetensors" in told.problem
