"""What the metadata of a LoRA tells about its maker that need not go out with the file. Knows nothing about tensors or files."""

import re
from collections.abc import Mapping

OPEN = ("modelspec.author", "modelspec.license", "sdlora_consent", "sdlora_note")  # what the artist wrote to be read
TELLING = (  # beginnings of keys -> what they give away
    ("ss_dataset_dirs", "names of the picture folders"), ("ss_reg_dataset_dirs", "names of the picture folders"),
    ("ss_datasets", "how the pictures were kept, with folder names and tags"), ("ss_tag_frequency", "words of the captions"),
    ("ss_bucket_info", "the sizes of the pictures"), ("ss_session_id", "a number that tells this training from others"),
    ("ss_training_started_at", "when the training began"), ("ss_training_finished_at", "when the training ended"),
    ("ss_sd_model_hash", "which file was trained on"), ("ss_training_comment", "a comment of the trainer"),
    ("ss_sample_prompts", "prompts"), ("ot_", "all settings of OneTrainer, with paths"),
    ("training_info", "settings of ai-toolkit"),
    ("sdlora_run", "the name of the training run"), ("sdlora_recipe", "the names of the LoRAs it was made from"),
    ("modelspec.merged_from", "the names of the LoRAs it was made from"))
PRIVATE_TEXT = (
    (re.compile(r"(?:^|[\s\"'=(\[,])(?:~|/(?:home|Users|root|mnt|media|content|workspace|var|tmp|data)/|[A-Za-z]:[\\/]|\\{2,}\w)"),
     "a path on somebody's computer"),
    (re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+\.\w{2,}"), "an e-mail address"),  # tried once a word: a long one takes no hours
    (re.compile(r"\bhf_\w{20,}|\bsk-\w{20,}|[?&](?:token|key|api_key)=\w+", re.IGNORECASE), "a key or token"))


def private(told: Mapping[str, str]) -> dict[str, str]:
    """{key: why it is nobody's business} of what should not be given away with a file: dataset, captions, paths, addresses."""
    found = {}
    for key, value in told.items():
        why = next((why for start, why in TELLING if key.startswith(start)), None)
        why = why or next((why for pattern, why in PRIVATE_TEXT if pattern.search(value)), None)
        if why and key not in OPEN and not value.startswith("data:image/"):
            found[key] = why
    return found


def stripped(told: Mapping[str, str]) -> dict[str, str]:
    """`told` without what private() finds."""
    hidden = private(told)
    return {key: value for key, value in told.items() if key not in hidden}
