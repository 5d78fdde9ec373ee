"""Chat templates as models bring them: what they write of themselves, before a response, in it and behind it."""

from __future__ import annotations

import pytest

from modpo.config.sources import DataConfig
from modpo.data.tokenize import Encoder
from tests.unit.data.test_tokenize import END, encoder, ids, letters, tiny_tokenizer

# Jinja takes away a line break that stands behind a block.
NEWLINE = "{{ '\\n' }}"
HI = (("user", "hi"),)
TALK = (("user", "hi"), ("assistant", "<think>hm</think>yo"), ("user", "so"))


def turns(response: str, *, before: str = "", generation: str = "<assistant>", between: str = NEWLINE) -> str:
    """A template with something of its own around the assistant's turns."""
    return (
        f"{before}{{% for m in messages %}}<{{{{ m.role }}}}>"
        f"{{% if m.role == 'assistant' %}}{response}{{% else %}}{{{{ m.content }}}}{{% endif %}}{between}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{generation}{{% endif %}}"
    )


class TestBehindTheResponse:
    @pytest.mark.parametrize("tail", ["", "\n", "\nend of talk\n", "\n<system>next</s>\n"])
    @pytest.mark.parametrize("response", ["y", "a long answer"])
    def test_what_follows_the_end_token_is_no_part_of_it(self, tail: str, response: str) -> None:
        chat = turns("{{ m.content }}</s>" + tail, between="")
        pair = encoder(chat=chat).pair(HI, response, "no")
        assert pair.prompt_ids == letters("<user>hi<assistant>")
        assert (pair.chosen_ids, pair.rejected_ids) == ([*letters(response), END], [*letters("no"), END])

    def test_what_follows_without_an_end_token_is_said_before_it(self) -> None:
        """The model has to write it to end its turn."""
        pair = encoder(chat=turns("{{ m.content }}<end>", between="")).pair(HI, "yo", "no")
        assert pair.chosen_ids == [*letters("yo<end>"), END]

    @pytest.mark.parametrize("response", ["y", "a long answer"])
    def test_an_end_token_between_turns_is_not_that_of_the_response(self, response: str) -> None:
        """Written only where a turn follows, so that it stands behind the prompt and not behind the response."""
        chat = "{% for m in messages %}{{ m.content }}{% if not loop.last %}</s>{% endif %}{% endfor %}"
        pair = encoder(chat=chat).pair(HI, response, "no")
        assert pair.prompt_ids == letters("hi")
        assert pair.chosen_ids == [END, *letters(response), END]
        assert pair.rejected_ids == [END, *letters("no"), END]

    @pytest.mark.parametrize("text", ["a</s>b", "</s>\nend", "said"])
    def test_a_response_that_looks_like_what_follows_stays_whole(self, text: str) -> None:
        pair = encoder(chat=turns("{{ m.content }}</s>\nend", between="")).pair(HI, text, "no")
        assert pair.chosen_ids == [*letters(text), END]


class TestThinking:
    """As Qwen3 and DeepSeek-R1 write it: tags before an answer that a data set does not have."""

    def test_empty_thoughts_before_an_answer_belong_to_it(self) -> None:
        """A turn that is answered begins with them, the prompt to generate from does not: the model says them."""
        chat = turns("{% if loop.last %}<think></think>{% endif %}{{ m.content }}</s>")
        pair = encoder(chat=chat).pair(HI, "yo", "no")
        assert pair.prompt_ids == encoder(chat=chat).prompt_ids(HI) == letters("<user>hi\n<assistant>")
        assert pair.chosen_ids == [*letters("<think></think>yo"), END]
        assert pair.rejected_ids == [*letters("<think></think>no"), END]

    def test_a_generation_prompt_that_opens_thoughts_is_not_how_an_answered_turn_begins(self) -> None:
        """Both responses follow what the two have in common."""
        chat = turns("{{ m.content }}</s>", generation="<assistant><think>\n")
        pair = encoder(chat=chat).pair(HI, "yo", "no")
        assert encoder(chat=chat).prompt_ids(HI) == letters("<user>hi\n<assistant><think>\n")
        assert pair.prompt_ids == letters("<user>hi\n<assistant>")
        assert (pair.chosen_ids, pair.rejected_ids) == ([*letters("yo"), END], [*letters("no"), END])

    def test_a_response_that_begins_as_the_generation_prompt_ends_splits_for_both_where_the_other_leaves(self) -> None:
        chat = turns("{{ m.content }}</s>", generation="<assistant><think>")
        pair = encoder(chat=chat).pair(HI, "<think>hm</think>yo", "no")
        assert pair.prompt_ids == letters("<user>hi\n<assistant>")
        assert pair.chosen_ids == [*letters("<think>hm</think>yo"), END]

    def test_thoughts_that_a_template_takes_out_of_earlier_turns_are_gone(self) -> None:
        kept = "{% if loop.last %}{{ m.content }}{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}</s>"
        pair = encoder(chat=turns(kept)).pair(TALK, "<think>x</think>ok", "no")
        assert pair.prompt_ids == [*letters("<user>hi\n<assistant>yo"), END, *letters("\n<user>so\n<assistant>")]
        assert pair.chosen_ids == [*letters("<think>x</think>ok"), END]


class TestContents:
    def test_spaces_that_a_template_strips_are_gone_from_all_turns(self) -> None:
        chat = turns("{{ m.content | trim }}</s>").replace("{{ m.content }}", "{{ m.content | trim }}")
        pair = encoder(chat=chat).pair((("user", "  hi\n"),), "\n yo ", "no  ")
        assert pair.prompt_ids == letters("<user>hi\n<assistant>")
        assert (pair.chosen_ids, pair.rejected_ids) == ([*letters("yo"), END], [*letters("no"), END])

    def test_spaces_beside_the_border_stay_where_a_template_keeps_them(self) -> None:
        pair = encoder(chat=turns("{{ m.content }}</s>")).pair(HI, " yo ", "no")
        assert pair.chosen_ids == [*letters(" yo "), END]

    def test_a_token_that_crosses_the_generation_prompt_belongs_to_the_response(self) -> None:
        """The prompt ends in "ca", which the response "t" turns into "cat"."""
        chat = turns("ca{{ m.content }}</s>", generation="<assistant>ca")
        pair = encoder(chat=chat).pair(HI, "t", "s")
        assert encoder(chat=chat).prompt_ids(HI) == [*letters("<user>hi\n<assistant>"), *ids("ca")]
        assert pair.prompt_ids == letters("<user>hi\n<assistant>")
        assert (pair.chosen_ids, pair.rejected_ids) == ([*ids("cat"), END], [*ids("ca", "s"), END])


class TestSystem:
    """A template that writes a system message of its own where there is none, as Qwen2.5's does."""

    chat = turns("{{ m.content }}</s>", before="{% if messages[0].role != 'system' %}<system>be good\n{% endif %}")

    @pytest.mark.parametrize(
        ("system", "prompt", "expected"),
        [
            (None, HI, "<system>be good\n<user>hi\n<assistant>"),
            ("be nice", HI, "<system>be nice\n<user>hi\n<assistant>"),
            ("", HI, "<system>\n<user>hi\n<assistant>"),
            ("be nice", (("system", "be kind"), *HI), "<system>be kind\n<user>hi\n<assistant>"),
        ],
    )
    def test_the_one_of_the_data_then_of_the_config_then_of_the_template(
        self, system: str | None, prompt: tuple[tuple[str, str], ...], expected: str
    ) -> None:
        told = Encoder(tiny_tokenizer(chat=self.chat), DataConfig(system=system))
        pair = told.pair(prompt, "yo", "no")
        assert pair.prompt_ids == told.prompt_ids(prompt) == letters(expected)
        assert pair.chosen_ids == [*letters("yo"), END]
