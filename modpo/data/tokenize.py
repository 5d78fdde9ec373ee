"""Texts to tokens: the only place that knows templates, the prompt/response boundary and the length limit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from modpo.config.sources import DataConfig
from modpo.data.special_tokens import SpecialTokens
from modpo.data.texts import Prompt
from modpo.errors import InputError, Problem, shown
from modpo.model_files import UNLOADABLE, loading_problem

Tokens = list[int]
Turns = tuple[tuple[str, str], ...]

CACHED_TEXTS = 50_000
# Stands for a response where only what a template writes behind it is looked at; no template strips it.
SOMETHING_SAID = "\ue000said\ue001"


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a pair; the responses end with the end-of-sequence token."""

    prompt_ids: Tokens
    chosen_ids: Tokens
    rejected_ids: Tokens

    @property
    def longest(self) -> int:
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    def cut(self, max_length: int) -> EncodedPair | None:
        """Responses cut at the end, without an end token there; the prompt stays whole.

        None where nothing is left of them, or nothing that differs.
        """
        room = max_length - len(self.prompt_ids)
        chosen, rejected = self.chosen_ids[:room], self.rejected_ids[:room]
        return EncodedPair(self.prompt_ids, chosen, rejected) if room > 0 and chosen != rejected else None


def load_tokenizer(name_or_path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer with an end token and something to pad with.

    Raises:
        InputError: it cannot be loaded, or has no end-of-sequence token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
    except UNLOADABLE as error:
        problem = Problem(
            code="MS-211",
            what="the tokenizer cannot be loaded",
            where="model.name_or_path",
            got=" ".join(str(error).split())[:200],
            wanted="a model with a tokenizer, on disk or on a hub that this machine can reach",
            remedy="check the name and the network, or give a local folder",
        )
        raise InputError(loading_problem(problem, error, shown(name_or_path))) from error
    if tokenizer.eos_token_id is None:
        raise InputError(
            Problem(
                code="MS-212",
                what="the tokenizer has no end-of-sequence token, so no response could end",
                where="model.name_or_path",
                remedy="set `eos_token` in the tokenizer's files",
            )
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.save_pretrained(str(folder))


class Encoder:
    """Turns prompts and responses into token ids under one template and one system message.

    What looks like a special token in a prompt, a response or the system message is text, unless the config allows
    it. Only a string that a chat template and a message make together, a part each, is not seen.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> None:
        self.tokenizer = tokenizer
        self.template = data.template or "{prompt}"
        self.system = data.system
        self._special = None if data.allow_special_tokens else SpecialTokens(tokenizer)
        # A prompt comes back with each of its responses, a response in several pairs.
        self._tokenised = lru_cache(maxsize=CACHED_TEXTS)(self._tokenise)
        self._unsaid = lru_cache(maxsize=CACHED_TEXTS)(self._behind_the_end)
        self._writes_end = list(tokenizer("a")["input_ids"])[-1:] == [tokenizer.eos_token_id]

    def prompt_ids(self, prompt: Prompt) -> Tokens:
        """Tokens from which a response is generated."""
        if isinstance(prompt, str):
            return self._plain(self.template, prompt)
        return self._chat(self._with_system(prompt))

    def pair(self, prompt: Prompt, chosen: str, rejected: str) -> EncodedPair:
        """Tokens of a pair, split at the first token that differs from the prompt's own tokenisation.

        A token that crosses the border between prompt and response belongs to the response. Both responses of a
        pair share one split, the earlier of the two, so that their log-probabilities condition on the same tokens.
        """
        prompt_ids = self.prompt_ids(prompt)
        texts = [self._with_response(prompt, response) for response in (chosen, rejected)]
        split = min(_common_prefix(prompt_ids, text) for text in texts)
        if split == 0:
            # The prompt is one token, and a response merges with it: apart, as generation sees them.
            texts = [[*prompt_ids, *self._ended(self._plain("", "", response))] for response in (chosen, rejected)]
            split = max(len(prompt_ids), 1)
        return EncodedPair(texts[0][:split], texts[0][split:], texts[1][split:])

    def response(self, prompt: Prompt, response: str) -> tuple[Tokens, Tokens]:
        """(prompt, response) tokens of a single text, split as in `pair`."""
        encoded = self.pair(prompt, response, response)
        return encoded.prompt_ids, encoded.chosen_ids

    def _with_system(self, prompt: Turns) -> Turns:
        if self.system is None or any(role == "system" for role, _ in prompt):
            return prompt
        return (("system", self.system), *prompt)

    def _with_response(self, prompt: Prompt, response: str) -> Tokens:
        if isinstance(prompt, str):
            return self._ended(self._plain(self.template, prompt, response))
        return self._ended(self._chat(self._with_system(prompt), response))

    def _ended(self, tokens: Tokens) -> Tokens:
        end: int = self.tokenizer.eos_token_id
        return tokens if tokens[-1:] == [end] else [*tokens, end]

    def _plain(self, template: str, prompt: str, response: str = "") -> Tokens:
        """Tokens of a text without the end token that some tokenizers write after every text."""
        text = template.replace("{prompt}", prompt) + response
        aliased = None
        if self._special is not None:
            aliased = self._special.exchanged(template).replace("{prompt}", prompt) + response
            # Where these agree, every special token of the text is the template's.
            aliased = None if aliased == self._special.exchanged(text) else aliased
        tokens = self._read(text, aliased, add_special_tokens=True)
        return tokens[:-1] if self._writes_end else tokens

    def _chat(self, turns: Turns, response: str | None = None) -> Tokens:
        """Tokens of a conversation: to where the assistant is to speak, or to the end of what it says."""
        text = self._conversation(turns, response)
        aliased = None
        if self._special is not None:
            # Aliases go through the template, which may cut or test a content; then they change places with its own.
            hidden = tuple((self._special.exchanged(role), self._special.exchanged(content)) for role, content in turns)
            said = None if response is None else self._special.exchanged(response)
            if (hidden, said) != (turns, response):
                aliased = self._special.exchanged(self._conversation(hidden, said))
        # A chat template writes the special tokens itself.
        return self._read(text, aliased, add_special_tokens=False)

    def _conversation(self, turns: Turns, response: str | None) -> str:
        if response is None:
            return self._rendered(turns, add_generation_prompt=True)
        text = self._rendered((*turns, ("assistant", response)), add_generation_prompt=False)
        return text.removesuffix(self._unsaid(turns))

    def _behind_the_end(self, turns: Turns) -> str:
        """What the template writes after a response's end token: never generated, so it is no part of the response."""
        text = self._rendered((*turns, ("assistant", SOMETHING_SAID)), add_generation_prompt=False)
        return text.rpartition(SOMETHING_SAID)[2].partition(self.tokenizer.eos_token)[2]

    def _read(self, text: str, aliased: str | None, *, add_special_tokens: bool) -> Tokens:
        """Tokens of a text as it stands or, where there is one, of its version with aliases."""
        return list(self._tokenised(text if aliased is None else aliased, aliased is not None, add_special_tokens))

    def _tokenise(self, text: str, is_aliased: bool, add_special_tokens: bool) -> tuple[int, ...]:
        if not is_aliased:
            return tuple(self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
        assert self._special is not None
        return tuple(self._special.tokens(text, add_special_tokens=add_special_tokens))

    def _rendered(self, turns: Turns, *, add_generation_prompt: bool) -> str:
        if self.tokenizer.chat_template is None:
            raise InputError(
                Problem(
                    code="MS-213",
                    what="the data has chat messages but the tokenizer has no chat template",
                    where="model.name_or_path",
                    wanted="an instruction-tuned model, or plain text prompts",
                    remedy="take a model with a chat template, or turn the messages into text with data.template",
                )
            )
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        except TemplateError as error:
            raise InputError(_refused_turns(turns, str(error))) from error
        return text


def _refused_turns(turns: Turns, reason: str) -> Problem:
    return Problem(
        code="MS-214",
        what="the tokenizer's chat template refuses a conversation",
        where="model.name_or_path",
        got=f"turns of {', '.join(role for role, _ in turns)}: {' '.join(reason.split())[:200]}",
        wanted="roles in an order that this template takes",
        remedy="mend such rows, or leave out data.system where the template knows no system message",
    )


def _common_prefix(first: Tokens, second: Tokens) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
