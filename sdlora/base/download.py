"""Download a base model from the hub, only when the artist asks. Knows nothing about torch or loaded models.

The network is used in a process of its own: it can be stopped at any moment, and this one stays offline.
`python -m sdlora.base.download ask|fetch OWNER/NAME` prints one JSON object.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlora import storage
from sdlora.errors import UserError
from sdlora.processes import with_source

PARTS = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet", "vae", "scheduler")
POLL_SECONDS = 0.25
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True)
class Offer:
    """What a download would bring. `licence`: as the model's page says, "unknown" when it says nothing."""
    id: str
    revision: str
    file_bytes: int
    licence: str
    files: tuple[str, ...]


def about(repo_id: str) -> Offer:
    """Ask the hub what a download of `repo_id` would bring. Raises UserError: no connection, no such model, no safetensors."""
    answer = finish(start("ask", repo_id), repo_id)
    answer["files"] = tuple(answer["files"])
    return Offer(**answer)


def download(repo_id: str, progress: Callable[[int, int], None] = lambda done, total: None,
             cancelled: Callable[[], bool] = lambda: False) -> Path:
    """Fetch `repo_id` into the Hugging Face cache; returns its folder. Raises UserError, also when cancelled.

    Only safetensors, JSON and text files; fp16 weights where the model offers them. progress(bytes done, bytes in all)
    and cancelled() are called about four times a second. A cancelled download resumes when it is started again.
    """
    offer = about(repo_id)
    process = start("fetch", repo_id)
    while process.poll() is None:
        progress(min(fetched(repo_id), offer.file_bytes), offer.file_bytes)
        if cancelled():
            process.terminate()
            process.wait()
            raise UserError(f"The download of {repo_id} was stopped.", "What has arrived is kept; download it again to resume.")
        time.sleep(POLL_SECONDS)
    folder = Path(finish(process, repo_id)["folder"])
    progress(offer.file_bytes, offer.file_bytes)
    return folder


def fetched(repo_id: str) -> int:
    """Return the bytes of `repo_id` in the cache, with unfinished files."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder, total = Path(HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}", 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
        except FileNotFoundError:  # renamed in this moment
            continue
    return total


def start(order: str, repo_id: str) -> subprocess.Popen[str]:
    """Start the process that may use the network."""
    if not HUB_ID.fullmatch(repo_id):
        raise UserError(f"{storage.clean_text(repo_id, 200)!r} is not the id of a model on the hub.", "Write it as owner/name.")
    environment = with_source(os.environ) | {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1",
                                             "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.Popen([sys.executable, "-m", "sdlora.base.download", order, repo_id], env=environment,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finish(process: subprocess.Popen[str], repo_id: str) -> dict[str, Any]:
    """Return the answer of the process. Raises UserError with the problem it reports."""
    output, _ = process.communicate()
    try:
        answer = json.loads(output.strip().split("\n")[-1])
    except ValueError:
        answer = {"problem": f"The download of {repo_id} broke off.", "hint": "Try again; what has arrived is used."}
    if "problem" in answer:
        raise UserError(answer["problem"], answer["hint"])
    return answer


def wanted(sizes: dict[str, int | None], repo_id: str) -> dict[str, int]:
    """Return {file: bytes} of the files of a model that sdlora needs: no pickles, no second copies in another precision."""
    chosen = {}
    for part in PARTS:
        inside = {name: size or 0 for name, size in sizes.items() if name.rpartition("/")[0] == part}
        weights = [name for name in inside if name.endswith(".safetensors") and "non_ema" not in name]
        weights = [name for name in weights if ".fp16" in name] or weights
        if part in ("unet", "vae", "text_encoder") and not weights:
            raise UserError(f"{repo_id} offers no safetensors weights of its {part}.", "Choose another model.")
        chosen |= {name: inside[name] for name in inside if name in weights or name.endswith((".json", ".txt"))}
    return chosen | {"model_index.json": sizes.get("model_index.json") or 0}


def ask(repo_id: str) -> dict[str, Any]:
    """Return the fields of an Offer (in the other process)."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo_id, files_metadata=True, timeout=30)
    sizes = wanted({file.rfilename: file.size for file in info.siblings or []}, repo_id)
    licence = str((info.card_data or {}).get("license") or "unknown")
    return {"id": repo_id, "revision": info.sha, "file_bytes": sum(sizes.values()), "licence": licence, "files": list(sizes)}


def fetch(repo_id: str) -> dict[str, Any]:
    """Download the files of ask() (in the other process)."""
    from huggingface_hub import snapshot_download

    offer = ask(repo_id)
    folder = snapshot_download(repo_id, allow_patterns=offer["files"], local_files_only=False)
    return {"folder": folder}


def main(order: str, repo_id: str) -> dict[str, Any]:
    """Run ask or fetch; return errors of the network as {"problem": sentence, "hint": sentence}."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return {"ask": ask, "fetch": fetch}[order](repo_id)
    except GatedRepoError:
        problem = f"{repo_id} asks you to accept its licence first."
        hint = f"Do that on https://huggingface.co/{repo_id}, then log in."
    except RepositoryNotFoundError:
        problem, hint = f"There is no model {repo_id} on the hub.", "Check the spelling: owner/name."
    except UserError as error:
        problem, hint = error.message, error.hint
    except Exception as error:  # noqa: BLE001  the hub's client raises a dozen kinds, and changes them; all mean the same here
        if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):  # of httpx or httpx2, whichever the hub uses
            problem = f"{repo_id} could not be fetched: huggingface.co cannot be reached."
            hint = "This computer seems to be offline. Check the connection, then try again."
        else:
            reason = storage.clean_text(f"{type(error).__name__}: {error}", 200)
            problem = f"{repo_id} could not be fetched ({reason})."
            hint = "Check the connection and the free disk space, then try again."
    return {"problem": problem, "hint": hint}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
