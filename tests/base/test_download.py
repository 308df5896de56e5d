"""A download against a hub on this machine: the right files, size and licence first, progress, cancel, sentences."""

import hashlib
import http.server
import json
import threading
import time

import pytest

from sdlora import storage
from sdlora.base import catalog, download
from sdlora.errors import UserError

MINI = storage.shipped("assets", "mini")
COMMIT = "0" * 39 + "1"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download uses; serves mini with what real repositories have beside it."""
    files: dict[str, bytes] = {}
    asked: list[str] = []
    slow = False

    def log_message(self, *words):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.partition("?")[0]
        if path == f"/api/models/me/tiny/tree/{COMMIT}":
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in self.files.items()]
            return self.send(json.dumps(tree).encode(), body)
        if path.startswith("/api/models/me/tiny"):
            facts = {"id": "me/tiny", "sha": COMMIT, "cardData": {"license": "mit"}, "private": False, "tags": [], "downloads": 0,
                     "siblings": [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]}
            return self.send(json.dumps(facts).encode(), body)
        name = path.rpartition(f"/{COMMIT}/")[2]
        if path.startswith("/me/tiny/resolve/") and name in self.files:
            self.asked.append(name)
            return self.send(self.files[name], body)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        return self.end_headers()

    def send(self, data, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        for start in range(0, len(data) if body else 0, 1 << 16):
            self.wfile.write(data[start:start + (1 << 16)])
            time.sleep(0.05 if self.slow else 0)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    kept = [file for file in MINI.rglob("*") if file.is_file() and file.suffix in (".json", ".txt", ".safetensors")]
    Hub.files = {file.relative_to(MINI).as_posix(): file.read_bytes() for file in kept}
    Hub.files["unet/diffusion_pytorch_model.fp16.safetensors"] = Hub.files["unet/diffusion_pytorch_model.safetensors"]
    Hub.files |= {"unet/diffusion_pytorch_model.bin": b"evil", "model.ckpt": b"evil", "tiny.safetensors": b"all in one",
                  "unet/diffusion_pytorch_model.non_ema.safetensors": b"double", "vae_1_0/config.json": b"{}", "run.py": b"evil"}
    Hub.asked, Hub.slow = [], False
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    from huggingface_hub import constants, file_download
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    assert file_download.constants is constants
    yield Hub
    server.shutdown()


def test_a_download_brings_what_is_needed_and_nothing_else(hub):
    offer = download.about("me/tiny")
    assert offer.licence == "mit" and offer.revision == COMMIT
    told = []
    folder = download.download("me/tiny", lambda done, total: told.append((done, total)))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == set(offer.files) == {name for name in hub.files if name.startswith(
        ("tokenizer/", "text_encoder/", "vae/", "scheduler/")) or name in (
        "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors")}
    assert offer.file_bytes == sum(len(hub.files[name]) for name in names) == told[-1][0] == told[-1][1]
    assert "unet/diffusion_pytorch_model.bin" not in hub.asked and "model.ckpt" not in hub.asked
    assert catalog.resolve("me/tiny") == folder
    assert catalog.identity(folder) == catalog.identity(MINI)
    assert catalog.add_base("me/tiny").kind == "hub"


def test_a_download_can_be_stopped(hub):
    hub.slow = True
    began, polls = time.monotonic(), []

    def cancelled():
        polls.append(time.monotonic())
        return len(polls) > 4

    with pytest.raises(UserError, match="was stopped"):
        download.download("me/tiny", cancelled=cancelled)
    assert time.monotonic() - began < 20
    with pytest.raises(UserError):
        catalog.resolve("me/tiny")


def test_what_goes_wrong_out_there_is_a_sentence(hub, monkeypatch):
    with pytest.raises(UserError, match="no model me/other"):
        download.about("me/other")
    for name in [name for name in hub.files if name.startswith("vae/") and name.endswith(".safetensors")]:
        del hub.files[name]
    with pytest.raises(UserError, match="no safetensors weights of its vae"):
        download.about("me/tiny")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="could not be fetched: huggingface.co cannot be reached") as caught:
        download.about("me/tiny")
    assert "offline" in caught.value.hint
    with pytest.raises(UserError, match="not the id"):
        download.about("--help")
