"""The border between prompt and response, the end token, templates: on tokenizers small enough to work by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from modpo.config.sources import DataConfig
from modpo.data.tokenize import Encoder, load_tokenizer, save_tokenizer
from modpo.errors import InputError
from tests.acceptance.plugin import Accept

PAD, BOS, END = 0, 1, 2
SPECIAL = ("<pad>", "<s>", "</s>")
LETTERS = tuple(" \nabcdefghijklmnopqrstuvwxyz<>/:{}AQ")
# Byte-pair merges in order: "ca", then "cat"; "t " joins a word's end to the space after it.
MERGES = [("c", "a"), ("ca", "t"), ("t", " ")]
VOCABULARY = {text: index for index, text in enumerate((*SPECIAL, *LETTERS, *("".join(pair) for pair in MERGES)))}
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tiny_tokenizer(*, begin: bool = False, end: bool = False, chat: str | None = None) -> PreTrainedTokenizerBase:
    """A letter BPE whose tokens cross the spaces; optionally it writes <s> before and </s> after every text."""
    backend = Tokenizer(models.BPE(vocab=VOCABULARY, merges=MERGES))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    single = ("<s> " if begin else "") + "$A" + (" </s>" if end else "")
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", BOS), ("</s>", END)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = chat
    return tokenizer


def encoder(template: str | None = None, **kind: bool | str) -> Encoder:
    return Encoder(tiny_tokenizer(**kind), DataConfig(template=template))  # type: ignore[arg-type]


def ids(*tokens: str) -> list[int]:
    return [VOCABULARY[token] for token in tokens]


def letters(text: str) -> list[int]:
    """A text in which nothing merges."""
    return ids(*text)


class TestBorder:
    def test_a_token_that_crosses_it_belongs_to_the_response(self) -> None:
        """The prompt "a ca" is [a, _, ca], but with the response "t" the text is [a, _, cat]: the split is before cat.

        The rejected response "s" leaves "ca" whole and could split later; both share the earlier split.
        """
        pair = encoder().pair("a ca", "t", "s")
        assert encoder().prompt_ids("a ca") == ids("a", " ", "ca")
        assert pair.prompt_ids == ids("a", " ")
        assert pair.chosen_ids == [*ids("cat"), END]
        assert pair.rejected_ids == [*ids("ca", "s"), END]
        assert pair.longest == 2 + 3

    def test_a_space_that_merges_backwards_into_the_prompt(self) -> None:
        """The prompt "b t" ends in the token "t"; a response that starts with a space turns it into "t_"."""
        pair = encoder().pair("b t", " d", "d")
        assert pair.prompt_ids == ids("b", " ")
        assert pair.chosen_ids == [*ids("t ", "d"), END]
        assert pair.rejected_ids == [*ids("t", "d"), END]

    def test_a_clean_border_splits_at_the_end_of_the_prompt(self) -> None:
        pair = encoder().pair("ab ", "cd", "e")
        assert pair.prompt_ids == encoder().prompt_ids("ab ") == letters("ab ")
        assert (pair.chosen_ids, pair.rejected_ids) == ([*letters("cd"), END], [*letters("e"), END])

    def test_responses_that_begin_alike_keep_their_common_tokens(self) -> None:
        """The split follows the prompt, not the common prefix of the two responses."""
        pair = encoder().pair("ab ", "dead", "dear")
        assert pair.prompt_ids == letters("ab ")
        assert pair.chosen_ids == [*letters("dead"), END]

    @pytest.mark.parametrize("begin", [False, True])
    def test_prompt_and_response_make_the_tokens_of_the_whole_text(self, begin: bool) -> None:
        tokenizer = tiny_tokenizer(begin=begin)
        for prompt, chosen, rejected in (("a ca", "t d", "ts"), ("cat", " cat", "cat"), ("t ", "t ", "x")):
            pair = Encoder(tokenizer, DataConfig()).pair(prompt, chosen, rejected)
            for response, tokens in ((chosen, pair.chosen_ids), (rejected, pair.rejected_ids)):
                assert pair.prompt_ids + tokens == [*tokenizer(prompt + response)["input_ids"], END]

    def test_a_begin_token_is_enough_to_condition_on(self) -> None:
        """With "at" the prompt "c" is the single token cat: what is left of it is what the tokenizer writes before."""
        pair = encoder(begin=True).pair("c", "at", "ab")
        assert pair.prompt_ids == [BOS]
        assert pair.chosen_ids == [*ids("cat"), END]
        assert pair.rejected_ids == [*ids("ca", "b"), END]

    def test_a_prompt_that_merges_away_whole_is_tokenised_apart(self) -> None:
        """Without a begin token nothing would be left to condition on: both responses follow the prompt's tokens."""
        pair = encoder().pair("c", "at", "bat")
        assert pair.prompt_ids == encoder().prompt_ids("c") == ids("c")
        assert pair.chosen_ids == [*letters("at"), END]
        assert pair.rejected_ids == [*letters("bat"), END]

    def test_a_single_response_splits_as_a_pair_of_itself(self) -> None:
        prompt_ids, response_ids = encoder().response("a ca", "t")
        assert (prompt_ids, response_ids) == (ids("a", " "), [*ids("cat"), END])


class TestEnd:
    @pytest.mark.parametrize("end", [False, True])
    @pytest.mark.parametrize("allowed", [False, True])
    @pytest.mark.parametrize("response", ["de", "de</s>"])
    def test_responses_end_once(self, end: bool, allowed: bool, response: str, accept: Accept) -> None:
        """Whether the tokenizer writes the end token itself, the text has it, as text or as token, both or neither."""
        pair = Encoder(tiny_tokenizer(end=end), DataConfig(allow_special_tokens=allowed)).pair("ab ", response, "f")
        sides = (pair.chosen_ids, pair.rejected_ids)
        wrong = sum(tokens.count(END) != 1 or tokens[-1] != END for tokens in sides) + pair.prompt_ids.count(END)
        accept("C1", "responses that do not end in one end token, and prompts that do", wrong, at_most=0)

    def test_a_prompt_to_generate_from_does_not_end(self) -> None:
        assert encoder(begin=True, end=True).prompt_ids("ab") == [BOS, *letters("ab")]

    @pytest.mark.parametrize("end", [False, True])
    def test_an_end_token_that_a_template_puts_after_the_prompt_stays(self, end: bool) -> None:
        """Some models separate turns by the end token: generation starts after it, as training does."""
        separated = encoder(template="{prompt}</s>", end=end)
        assert separated.prompt_ids("ab") == [*letters("ab"), END]
        pair = separated.pair("ab", "d", "e")
        assert (pair.prompt_ids, pair.chosen_ids) == ([*letters("ab"), END], [*letters("d"), END])


class TestTemplate:
    def test_plain_template_surrounds_the_prompt(self) -> None:
        pair = encoder(template="Q: {prompt}\nA:").pair("ab", " d", " e")
        assert pair.prompt_ids == letters("Q: ab\nA:")
        assert pair.chosen_ids == [*letters(" d"), END]

    def test_braces_in_a_prompt_are_text(self) -> None:
        """Not a format string: a prompt that itself contains {prompt} or {x} is not expanded again."""
        assert encoder(template="Q: {prompt}").prompt_ids("{x} {prompt}") == letters("Q: {x} {prompt}")


class TestChat:
    prompt = (("system", "be kind"), ("user", "hi"))

    def test_generation_starts_after_the_assistants_header(self) -> None:
        assert encoder(chat=CHAT).prompt_ids(self.prompt) == letters("<system>be kind\n<user>hi\n<assistant>")

    def test_response_is_what_the_assistant_says_up_to_the_end_token(self) -> None:
        """The newline that the template writes after </s> is never generated, so it is no part of the response."""
        pair = encoder(chat=CHAT).pair(self.prompt, "yo", "no")
        assert pair.prompt_ids == encoder(chat=CHAT).prompt_ids(self.prompt)
        assert pair.chosen_ids == [*letters("yo"), END]
        assert pair.rejected_ids == [*letters("no"), END]

    def test_template_without_an_end_token_gets_one(self) -> None:
        endless = CHAT.replace("</s>", "")
        assert encoder(chat=endless).pair(self.prompt, "yo", "no").chosen_ids == [*letters("yo\n"), END]

    @pytest.mark.parametrize("response", ["y", "yo", "yes sir"])
    def test_end_token_of_an_earlier_turn_is_not_the_end_of_the_response(self, response: str) -> None:
        """A template may close the user's turn with the end token and leave the assistant's last turn open."""
        chat = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}</s>{% endif %}{% endfor %}"
        pair = encoder(chat=chat).pair(self.prompt, response, "other")
        assert pair.prompt_ids == [*letters("be kindhi"), END]
        assert pair.chosen_ids == [*letters(response), END]

    def test_multi_turn_prompts_keep_their_end_tokens(self) -> None:
        prompt = (("user", "hi"), ("assistant", "yo"), ("user", "so"))
        pair = encoder(chat=CHAT).pair(prompt, "ok", "no")
        assert pair.prompt_ids == [*letters("<user>hi\n<assistant>yo"), END, *letters("\n<user>so\n<assistant>")]
        assert pair.chosen_ids == [*letters("ok"), END]

    def test_a_chat_is_the_templates_text_tokenised_once(self) -> None:
        """Two routes: what the tokenizer itself makes of the messages, in one call."""
        tokenizer = tiny_tokenizer(begin=True, end=True, chat=CHAT)
        messages = [{"role": role, "content": content} for role, content in self.prompt]
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert Encoder(tokenizer, DataConfig()).prompt_ids(self.prompt) == expected

    def test_messages_without_a_chat_template_are_refused(self) -> None:
        with pytest.raises(InputError) as caught:
            encoder().pair(self.prompt, "yo", "no")
        (problem,) = caught.value.problems
        assert (problem.code, problem.where) == ("MS-213", "model.name_or_path")

    def test_a_template_that_refuses_a_conversation_says_why(self) -> None:
        strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHAT
        with pytest.raises(InputError) as caught:
            encoder(chat=strict).pair(self.prompt, "yo", "no")
        (problem,) = caught.value.problems
        assert (problem.code, problem.got) == ("MS-214", "turns of system, user: no system here")

    def test_text_prompts_are_not_put_into_the_chat_template(self) -> None:
        assert encoder(chat=CHAT).prompt_ids("hi") == letters("hi")


class TestSystem:
    told = DataConfig(system="be nice")

    @pytest.mark.parametrize("system", ["be nice", ""])
    def test_it_stands_before_messages_that_have_none_in_prompts_and_pairs(self, system: str) -> None:
        """An empty one too: it takes the place of the message that some templates write of themselves."""
        told = Encoder(tiny_tokenizer(chat=CHAT), DataConfig(system=system))
        pair = told.pair((("user", "hi"),), "yo", "no")
        assert pair.prompt_ids == letters(f"<system>{system}\n<user>hi\n<assistant>")
        assert pair.prompt_ids == told.prompt_ids((("user", "hi"),))
        assert (pair.chosen_ids, pair.rejected_ids) == ([*letters("yo"), END], [*letters("no"), END])

    @pytest.mark.parametrize("prompt", [(("system", "be kind"), ("user", "hi")), (("user", "hi"), ("system", "go on"))])
    def test_messages_that_have_one_keep_theirs(self, prompt: tuple[tuple[str, str], ...]) -> None:
        tokenizer = tiny_tokenizer(chat=CHAT)
        assert Encoder(tokenizer, self.told).prompt_ids(prompt) == Encoder(tokenizer, DataConfig()).prompt_ids(prompt)

    def test_it_is_written_once_before_several_turns(self) -> None:
        prompt = (("user", "hi"), ("assistant", "yo"), ("user", "so"))
        pair = Encoder(tiny_tokenizer(chat=CHAT), self.told).pair(prompt, "ok", "no")
        first = letters("<system>be nice\n<user>hi\n<assistant>yo")
        assert pair.prompt_ids == [*first, END, *letters("\n<user>so\n<assistant>")]

    def test_text_prompts_have_none(self) -> None:
        pair = Encoder(tiny_tokenizer(chat=CHAT), self.told).pair("hi ", "yo", "no")
        assert pair.prompt_ids == letters("hi ")


@pytest.mark.parametrize("prompt", ["ab", (("user", "ab"),)])
@pytest.mark.parametrize("response", ["d", "d</s>"])
def test_each_text_is_tokenised_once(
    prompt: str | tuple[tuple[str, str], ...], response: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt and its three responses make four texts, in however many pairs they stand."""
    counted: list[str] = []
    tokenise = Encoder._tokenise

    def count(self: Encoder, text: str, *how: bool) -> tuple[int, ...]:
        counted.append(text)
        return tokenise(self, text, *how)

    monkeypatch.setattr(Encoder, "_tokenise", count)
    encoded = encoder(chat=CHAT)
    for chosen, rejected in ((response, "e"), (response, "f"), ("e", "f")):
        encoded.pair(prompt, chosen, rejected)
    assert len(counted) == len(set(counted)) == 4


class TestLoading:
    def test_round_trip_through_a_folder(self, tmp_path: Path) -> None:
        save_tokenizer(tiny_tokenizer(begin=True, chat=CHAT), tmp_path)
        loaded = load_tokenizer(str(tmp_path))
        assert loaded("a cat")["input_ids"] == [BOS, *ids("a", " ", "cat")]
        assert loaded.chat_template == CHAT

    def test_padding_falls_back_to_the_end_token(self, tmp_path: Path) -> None:
        tokenizer = tiny_tokenizer()
        tokenizer.pad_token = None
        save_tokenizer(tokenizer, tmp_path)
        assert load_tokenizer(str(tmp_path)).pad_token_id == END

    def test_without_an_end_token_no_response_could_end(self, tmp_path: Path) -> None:
        tokenizer = tiny_tokenizer()
        tokenizer.eos_token = None
        save_tokenizer(tokenizer, tmp_path)
        with pytest.raises(InputError) as caught:
            load_tokenizer(str(tmp_path))
        assert [problem.code for problem in caught.value.problems] == ["MS-212"]

    def test_a_folder_without_a_tokenizer(self, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            load_tokenizer(str(tmp_path))
        (problem,) = caught.value.problems
        assert (problem.code, problem.where) == ("MS-211", "model.name_or_path")


class TestRealTokenizer:
    """A pretrained tokenizer whose tokens cross word borders."""

    pairs = (
        ("Once upon a time there was a", " little girl", " dog."),
        ("Once upon a time there was a ", "little girl", "dog."),
        ("The cat sa", "t on the mat", "w a bird"),
        ('Lily said, "Hel', 'lo!"', 'p!"'),
        ("One day", ", Tim went", " a cat came"),
    )

    def test_pairs_are_the_whole_text_tokenised_once(self, shared_models: Path) -> None:
        tokenizer = load_tokenizer(str(shared_models / "tinystories656K"))
        encoded = Encoder(tokenizer, DataConfig())
        crossed = 0
        for prompt, chosen, rejected in self.pairs:
            pair = encoded.pair(prompt, chosen, rejected)
            for response, tokens in ((chosen, pair.chosen_ids), (rejected, pair.rejected_ids)):
                whole = tokenizer(prompt + response)["input_ids"]
                assert pair.prompt_ids + tokens == [*whole, tokenizer.eos_token_id]
                assert tokenizer.decode(pair.prompt_ids + tokens, skip_special_tokens=True).strip() == prompt + response
            crossed += pair.prompt_ids != encoded.prompt_ids(prompt)
        assert crossed >= 1, "none of these prompts has a token that crosses its border: choose others"
