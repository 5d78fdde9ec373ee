"""The files of a model, digested by what they decide: weights, configuration, tokenizer and chat template."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from modpo.artifacts import digest_of, file_sha256

Part = Literal["weights", "config", "tokenizer", "chat template"]

TEMPLATE_IN = "tokenizer_config.json"
# Whatever has another name may matter to anybody, and counts as the model's configuration.
PARTS: tuple[tuple[Part, tuple[str, ...]], ...] = (
    ("weights", ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.index.json")),
    ("chat template", ("chat_template*", "additional_chat_templates/*")),
    (
        "tokenizer",
        (
            *("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
            *("spiece.model", "sentencepiece*", "*.tiktoken", "tekken.json"),
        ),
    ),
)
CONFIGS = ("config.json", "adapter_config.json")
NO_PART = ("*.md", "LICENSE*")


def model_parts(name_or_path: str, revision: str | None) -> dict[Part, str]:
    """Digests of what the files of a local folder decide; of a hub id, the id and its commit for each."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        named = f"{name_or_path}@{_commit(name_or_path, revision) or revision or 'main'}"
        return {"weights": named, "config": named, "tokenizer": named, "chat template": named}
    content: dict[Part, list[Any]] = defaultdict(list)
    for path in own_files(folder):
        name = path.relative_to(folder).as_posix()
        if name == TEMPLATE_IN and isinstance(settings := _json_of(path), dict):
            content["chat template"].append(settings.pop("chat_template", None))
            content["tokenizer"].append([name, settings])
        else:
            content[_part(name)].append([name, file_sha256(path)])
    return {part: digest_of(content[part]) for part in ("weights", "config", "tokenizer", "chat template")}


def files_digest(name_or_path: str, revision: str | None = None) -> str:
    """All of it in one: of a reward model or an adapter."""
    return digest_of(model_parts(name_or_path, revision))


def own_files(folder: Path) -> Iterator[Path]:
    """In a fixed order, without what describes a model or lies hidden beside it."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") for part in parts) and not _matches(path.name, NO_PART):
            yield path


def _commit(hub_id: str, revision: str | None) -> str | None:
    """What a branch or tag stands for in the hub's cache, where the preflight's reading has just put it."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for name in CONFIGS:
        with suppress(HFValidationError):
            found = try_to_load_from_cache(hub_id, name, revision=revision)
            if isinstance(found, str):
                return Path(found).parent.name
    return None


def _part(name: str) -> Part:
    return next((part for part, patterns in PARTS if _matches(name, patterns)), "config")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _json_of(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
