"""What a secret looks like, by its name and by its value, and texts without them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

MASK = "<secret>"
SHORTEST_SECRET = 8
"""Shorter values of secret variables stand in too many innocent words to be masked."""

# TOKENIZERS_PARALLELISM is none.
SECRET_NAME = re.compile(r"TOKEN(?!IZ)|KEY|SECRET|PASSW|PASSPHRASE|CREDENTIAL", re.IGNORECASE)
# HF_TOKEN_PATH says where a secret is, not what it is.
PLACE_NAME = re.compile(r"_(PATH|FILE)$", re.IGNORECASE)
SECRET_VALUE = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|gh[opsu]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|sk-[\w-]{16,}|xox[abp]-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{12,})"
    # The address stays readable without its user and password.
    r"|(?<=://)[^/\s@:'\"]*:[^/\s@'\"]+(?=@)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    # W&B's keys are forty hexadecimal digits, as commits are: only beside their name.
    r"|(?<=key=)[0-9a-f]{40}\b|(?<=key: )[0-9a-f]{40}\b|(?<=key': ')[0-9a-f]{40}\b|(?<=key\": \")[0-9a-f]{40}\b",
)


def names_secret(name: str) -> bool:
    """Whether a variable or key of this name holds a secret."""
    return bool(SECRET_NAME.search(name)) and not PLACE_NAME.search(name)


def masked(text: str) -> str:
    """`text` without the values of this process's secret variables, and without what looks like a secret."""
    for secret in _known_secrets(os.environ):
        text = text.replace(secret, MASK)
    return SECRET_VALUE.sub(MASK, text)


def secrets_in(tree: Any, path: str = "") -> Iterator[str]:
    """Paths of the keys of a tree whose value is a secret, by the key's name or by the value itself."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            where = f"{path}.{key}".removeprefix(".")
            # `max_new_tokens` counts tokens of another kind.
            counts = str(key).lower().endswith("tokens")
            if isinstance(value, str) and value and names_secret(str(key)) and not counts:
                yield where
            else:
                yield from secrets_in(value, where)
    elif isinstance(tree, list | tuple):
        for index, item in enumerate(tree):
            yield from secrets_in(item, f"{path}.{index}")
    elif isinstance(tree, str) and SECRET_VALUE.search(tree):
        yield path


def _known_secrets(environment: Mapping[str, str]) -> list[str]:
    """The longest first: one may be the beginning of another."""
    found = {value for name, value in environment.items() if names_secret(name) and len(value) >= SHORTEST_SECRET}
    return sorted(found, key=len, reverse=True)
