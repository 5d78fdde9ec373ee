"""Prompt and response as a classifier's text."""

from __future__ import annotations

from typing import Any

import pytest

from modpo.rewards.rendering import Rendering, plain_prompt
from tests.unit.rewards.classifiers import CHAT_TEMPLATE, make_tokenizer

CHAT = [{"role": "system", "content": "good"}, {"role": "user", "content": "the fox"}]


def rendering(template: str | None = None, *, max_length: int = 64, **tokenizer: Any) -> Rendering:
    return Rendering(make_tokenizer(**tokenizer), template, "{prompt} {response}", max_length)


class TestText:
    def test_template(self) -> None:
        assert rendering("Q: {prompt}\nA: {response}").text("fox", "dog") == "Q: fox\nA: dog"

    def test_places_inside_the_texts_are_left_alone(self) -> None:
        assert rendering("{prompt}|{response}").text("{response}", "{prompt}") == "{response}|{prompt}"

    def test_neither_template_nor_chat_template(self) -> None:
        assert rendering().text("fox", "dog") == "fox dog"

    def test_chat_template(self) -> None:
        chat = rendering(chat_template=CHAT_TEMPLATE)
        assert chat.text("fox", "dog") == "<s> user fox <s> assistant dog "
        assert chat.text(CHAT, "dog") == "<s> system good <s> user the fox <s> assistant dog "

    @pytest.mark.parametrize(
        ("prompt", "text"), [("fox", "fox"), (CHAT[1:], "the fox"), (CHAT, "system: good\n\nuser: the fox")]
    )
    def test_messages_where_a_template_asks_for_text(self, prompt: Any, text: str) -> None:
        assert plain_prompt(prompt) == text


class TestTokens:
    def test_the_end_is_kept(self) -> None:
        cut = rendering(max_length=3)
        (tokens, short), too_long = cut.tokens(["one two three four", "one two"])
        assert cut.tokenizer.decode(tokens) == "two three four"
        assert cut.tokenizer.decode(short) == "one two"
        assert too_long == 1

    def test_special_tokens_around_a_text_are_kept(self) -> None:
        cut = rendering(max_length=3, begins=True)
        (tokens,), _ = cut.tokens(["one two three four"])
        assert cut.tokenizer.decode(tokens) == "<s> three four"

    def test_a_chat_template_writes_them_itself(self) -> None:
        chat = rendering(chat_template=CHAT_TEMPLATE, begins=True)
        (tokens,), _ = chat.tokens([chat.text("fox", "dog")])
        assert chat.tokenizer.decode(tokens) == "<s> user fox <s> assistant dog"

    def test_a_text_without_tokens_has_one(self) -> None:
        assert rendering().tokens(["", "one"])[0][0] == [1]
        assert rendering().tokens([]) == ([], 0)
