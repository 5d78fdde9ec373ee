"""A prompt and its response as a classifier reads them: text, in its own template and its own tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

Tokens = list[int]

PLACES = re.compile(r"\{(prompt|response)\}")


@dataclass(frozen=True)
class Rendering:
    """How texts become a classifier's tokens, for training and scoring alike.

    Attributes:
        template: text with `{prompt}` and `{response}`; the tokenizer's chat template where it is None.
        fallback: the template of a tokenizer that has no chat template either.
        max_length: longer texts lose their beginning, for the response stands at the end.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str | None
    fallback: str
    max_length: int

    def text(self, prompt: Any, response: str) -> str:
        """One text; `prompt` is text or a list of {role, content} messages."""
        if self._is_chat:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
            rendered: str = self.tokenizer.apply_chat_template(
                [*messages, {"role": "assistant", "content": response}], tokenize=False, add_generation_prompt=False
            )
            return rendered
        parts = {"prompt": plain_prompt(prompt), "response": response}
        # In one pass: a prompt may have the word {response} in it.
        return PLACES.sub(lambda place: parts[place[1]], self.template or self.fallback)

    def tokens(self, texts: Sequence[str]) -> tuple[list[Tokens], int]:
        """(tokens of each text, number of texts that were too long)."""
        tokens = self._tokenise(texts)
        too_long = [row for row, ids in enumerate(tokens) if len(ids) > self.max_length]
        if too_long:
            # By the tokenizer, which keeps the special tokens that it puts around a text.
            cut = self._tokenise([texts[row] for row in too_long], truncation=True, max_length=self.max_length)
            for row, ids in zip(too_long, cut, strict=True):
                tokens[row] = ids
        return [ids or self._empty() for ids in tokens], len(too_long)

    @property
    def _is_chat(self) -> bool:
        return self.template is None and self.tokenizer.chat_template is not None

    def _tokenise(self, texts: Sequence[str], **truncation: Any) -> list[Tokens]:
        if not texts:
            return []
        self.tokenizer.truncation_side = "left"
        # A chat template writes the special tokens itself.
        encoded = self.tokenizer(list(texts), add_special_tokens=not self._is_chat, verbose=False, **truncation)
        return [list(ids) for ids in encoded["input_ids"]]

    def _empty(self) -> Tokens:
        """A text without tokens still needs one to be scored at."""
        special = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.unk_token_id, 0)
        return [next(token for token in special if token is not None)]


def plain_prompt(prompt: Any) -> str:
    """A prompt where a template asks for text: of one message its content, of several `role: content` paragraphs."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)
