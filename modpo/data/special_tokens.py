"""Special tokens that stand in people's texts: text there, and the token only where a template writes it."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from functools import cached_property
from typing import Any

Tokens = list[int]

SPACES = r"\s*"


class SpecialTokens:
    """Reads texts in which every special token goes by an alias, and its own string is text like any other.

    A whole text is read at once, so that spaces and merges beside such a string are those of the middle of a text. An
    alias lasts as long as this object: its digits are random, so that no data set can hold it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        named = set(tokenizer.all_special_tokens)
        found = {index: token for index, token in tokenizer.added_tokens_decoder.items() if _is_special(token, named)}
        digits = secrets.token_hex(8)
        # Private-use characters at both ends: no added token reaches into an alias, and no template strips them.
        self._aliases = {token.content: f"\ue000{digits}-{index}\ue001" for index, token in found.items()}
        self._ids = {self._aliases[token.content]: index for index, token in found.items()}
        self._others = self._aliases | {alias: string for string, alias in self._aliases.items()}
        # The longest first, as tokenizers match them.
        self._lengths = sorted({len(string) for string in self._others}, reverse=True)
        self._first = re.compile(f"[{re.escape(''.join(sorted({string[0] for string in self._others})))}]")

    def exchanged(self, text: str) -> str:
        """The text with an alias for each special token in it, and the special token for each alias."""
        parts, done = [], 0
        for first in self._first.finditer(text):
            start = first.start()
            found = self._at(text, start) if start >= done else None
            if found is not None:
                parts += [text[done:start], self._others[found]]
                done = start + len(found)
        return "".join([*parts, text[done:]])

    def _at(self, text: str, start: int) -> str | None:
        """The special token or alias that begins here; by length, for some tokenizers have thousands of them."""
        strings = (text[start : start + length] for length in self._lengths)
        return next((string for string in strings if string in self._others), None)

    def tokens(self, text: str, *, add_special_tokens: bool) -> Tokens:
        """Tokens of a text in which aliases are the special tokens; `add_special_tokens` as in the tokenizer's call."""
        if not self._tokenizer.is_fast:
            return self._by_parts(text, add_special_tokens=add_special_tokens)
        return list(self._reader.encode(text, add_special_tokens=add_special_tokens).ids)

    @cached_property
    def _border(self) -> re.Pattern[str]:
        """Any alias, with the spaces that its token takes from beside it."""
        added = self._tokenizer.added_tokens_decoder
        tokens = ((re.escape(alias), added[index]) for alias, index in self._ids.items())
        spaced = (SPACES * token.lstrip + alias + SPACES * token.rstrip for alias, token in tokens)
        return re.compile(f"({'|'.join(spaced)})")

    @cached_property
    def _reader(self) -> Any:
        """The backend with aliases for names; built for the first text that needs it, which takes a second or two."""
        backend = self._tokenizer.backend_tokenizer
        reader = type(backend).from_str(json.dumps(_renamed(json.loads(backend.to_str()), self._aliases)))
        reader.no_truncation()
        reader.no_padding()
        assert {alias: reader.token_to_id(alias) for alias in self._ids} == self._ids
        return reader

    def _by_parts(self, text: str, *, add_special_tokens: bool) -> Tokens:
        """The same for tokenizers written in Python, which read a text in parts between special tokens anyway."""
        tokens: Tokens = []
        for part in self._border.split(text):
            if part.strip() in self._ids:
                tokens.append(self._ids[part.strip()])
            elif part:
                tokens += self._tokenizer(part, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return list(self._tokenizer.build_inputs_with_special_tokens(tokens)) if add_special_tokens else tokens


def _is_special(token: Any, named: set[str]) -> bool:
    return bool(token.special) or token.content in named


def _renamed(state: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A fast tokenizer's JSON with other names for these tokens, everywhere but in what it writes around a text.

    In the model's vocabulary too, where a unigram model would find `</s>` in any text; and without the merges that
    would put it together from its letters.
    """
    model = dict(state["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): index for token, index in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if names.keys().isdisjoint([*merge, "".join(merge)])]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    # Found wherever it stands, since whoever writes an alias means the token.
    found = {"normalized": False, "single_word": False}
    added = [
        {**token, **found, "content": names[token["content"]]} if token["content"] in names else token
        for token in state["added_tokens"]
    ]
    return {**state, "model": model, "added_tokens": added}
