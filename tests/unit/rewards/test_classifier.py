"""Classifiers as rewards: they read text in their own tokens, and nothing but the text changes a score."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, CLIPVisionConfig, LlamaForCausalLM

from modpo.config.rewards import ClassifierSettings
from modpo.errors import InputError
from modpo.rewards.base import Completion
from modpo.rewards.classifier import (
    Classifier,
    ClassifierScorer,
    ClassifierSource,
    check_classifier,
    kept_classifier,
    load_classifier,
)
from tests.unit.rewards.classifiers import CHAT_TEMPLATE, WORDS, make_tokenizer, write_classifier, write_encoder

FALLBACK = "{prompt} {response}"
SPOKEN = ("the fox", "the golden dog runs at dawn .", "a")
TEXTS = [(prompt, response) for prompt in SPOKEN for response in ("good .", "bad bad bad dog .", "", "one two three")]
COMPLETIONS = [Completion(prompt, response, (), ()) for prompt, response in TEXTS]
NO_LOGPS = np.zeros(0)


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    kept_classifier.cache_clear()
    yield
    kept_classifier.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_classifier(tmp_path_factory.mktemp("classifier") / "llama", make_tokenizer(), num_labels=3)


def load(folder: str) -> Classifier:
    return load_classifier(ClassifierSource(folder), "cpu")


def rewards(classifier: Classifier, texts: list[tuple[Any, str]] = TEXTS, **settings: Any) -> list[float]:
    return classifier.rewards(texts, ClassifierSettings(**settings), fallback=FALLBACK).tolist()


class TestBatches:
    def test_any_order_gives_the_same_bits(self, folder: str) -> None:
        classifier = load(folder)
        order = np.random.default_rng(0).permutation(len(TEXTS))
        plain = np.array(rewards(classifier, batch_size=4))
        assert rewards(classifier, [TEXTS[row] for row in order], batch_size=4) == plain[order].tolist()
        assert np.ptp(plain) > 0.1

    @pytest.mark.parametrize("pad", [True, False], ids=["own padding", "none"])
    def test_eight_at_once_score_as_one_by_one(self, tmp_path: Path, pad: bool) -> None:
        """Decoders read the score at the last token: padding of the wrong kind reads it elsewhere."""
        tokenizer = make_tokenizer(pad=pad)
        classifier = load(write_classifier(tmp_path, tokenizer, pad_token_id=0 if pad else None))
        assert rewards(classifier, batch_size=8) == pytest.approx(rewards(classifier, batch_size=1), abs=1e-5)

    def test_encoder(self, tmp_path: Path) -> None:
        classifier = load(write_encoder(tmp_path, make_tokenizer(begins=True)))
        assert rewards(classifier, batch_size=8) == pytest.approx(rewards(classifier, batch_size=1), abs=1e-5)

    @torch.no_grad()
    def test_without_padding_the_score_is_that_of_the_last_token_even_of_an_end_token(self, tmp_path: Path) -> None:
        """As the model itself scores a single text; padding with the end token would read the token before."""
        tokenizer = make_tokenizer(pad=False)
        folder = write_classifier(tmp_path, tokenizer, pad_token_id=None)
        template = "{prompt} {response} </s>"
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        expected = [
            float(model(**tokenizer(f"{p} {r} </s>", return_tensors="pt", return_token_type_ids=False)).logits)
            for p, r in TEXTS
        ]
        assert rewards(load(folder), template=template, batch_size=8) == pytest.approx(expected, abs=1e-5)

    def test_padding_is_the_models_and_not_the_tokenizers(self, tmp_path: Path) -> None:
        """Many tokenizers are saved with another padding token than their model."""
        tokenizer = make_tokenizer()
        tokenizer.pad_token = "</s>"
        classifier = load(write_classifier(tmp_path, tokenizer, pad_token_id=0))
        assert rewards(classifier, batch_size=8) == pytest.approx(rewards(classifier, batch_size=1), abs=1e-5)

    def test_nothing_to_score(self, folder: str) -> None:
        assert rewards(load(folder), []) == []


class TestTexts:
    def test_own_tokenizer_reads_the_text(self, tmp_path: Path) -> None:
        """The same classifier under other numbers for its words: the same rewards, whatever the policy's tokens are."""
        classifier = load(write_classifier(tmp_path / "one", make_tokenizer()))
        other = load(write_classifier(tmp_path / "other", make_tokenizer(tuple(reversed(WORDS)))))
        words = sorted(classifier.tokenizer.get_vocab())
        mine, ids = (each.tokenizer.convert_tokens_to_ids(words) for each in (classifier, other))
        assert ids != mine
        embedding, weights = classifier.model.get_input_embeddings().weight, classifier.model.state_dict()
        other.model.load_state_dict(weights)
        other.model.get_input_embeddings().weight.data[ids] = embedding.data[mine]
        assert rewards(other) == pytest.approx(rewards(classifier), abs=1e-6)

    def test_score_does_not_depend_on_the_policys_tokens(self, folder: str) -> None:
        scorer = make_scorer(folder)
        completions = [
            Completion("the fox", "good .", prompt, response) for prompt, response in (((5,), (6,)), ((), ()))
        ]
        first, second = scorer.score(completions, reference_logps=NO_LOGPS)
        assert first == second

    def test_own_chat_template(self, tmp_path: Path) -> None:
        """A text is the user's message; the special tokens come from the template alone."""
        tokenizer = make_tokenizer(chat_template=CHAT_TEMPLATE, begins=True)
        classifier = load(write_classifier(tmp_path, tokenizer))
        chat = [([{"role": "user", "content": prompt}], response) for prompt, response in TEXTS]
        spelled = "<s> user {prompt} <s> assistant {response}"
        plain = load(write_classifier(tmp_path / "plain", make_tokenizer()))
        assert rewards(classifier) == rewards(classifier, chat) == rewards(plain, template=spelled)

    def test_template_of_the_sweep_file_goes_before_the_chat_template(self, tmp_path: Path) -> None:
        classifier = load(write_classifier(tmp_path / "chat", make_tokenizer(chat_template=CHAT_TEMPLATE)))
        plain = load(write_classifier(tmp_path / "plain", make_tokenizer()))
        assert rewards(classifier, template=FALLBACK) == rewards(plain)

    def test_a_long_text_loses_its_beginning_and_that_is_said_once(
        self, folder: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        classifier = load(folder)
        long = "the fox runs at dawn . " * 4
        with caplog.at_level(logging.WARNING):
            cut = rewards(classifier, [(long, "good ."), ("the", "bad .")], max_length=8)
            again = rewards(classifier, [(long, "good .")], max_length=8)
        end = " ".join(f"{long}good .".split()[-8:])
        assert cut[0] == again[0] == pytest.approx(rewards(classifier, [(end, "")])[0], abs=1e-6)
        (message,) = [record.getMessage() for record in caplog.records]
        assert message.startswith("1 of 2 texts are longer than the 8 tokens that classifier")

    def test_the_models_own_limit_holds(self, tmp_path: Path) -> None:
        """BERT has no positions beyond its limit; its first token, where it is read, stays."""
        classifier = load(write_encoder(tmp_path, make_tokenizer(begins=True)))
        (value,) = rewards(classifier, [("the fox " * 40, "good .")])
        text = " ".join(("the fox " * 40 + "good .").split()[-31:])
        assert value == pytest.approx(rewards(classifier, [(text, "")])[0], abs=1e-6)


def make_scorer(folder: str, *, sign: float = 1.0, **settings: Any) -> ClassifierScorer:
    base: Any = torch.nn.Linear(1, 1)
    base.device = torch.device("cpu")
    return ClassifierScorer("kind", ClassifierSource(folder), ClassifierSettings(**settings), sign, base, FALLBACK)


class TestScorer:
    def test_sign_and_output(self, folder: str) -> None:
        for output in (0, 2):
            up, down = (
                make_scorer(folder, sign=sign, output=output).score(COMPLETIONS, reference_logps=NO_LOGPS)
                for sign in (1.0, -1.0)
            )
            assert up.dtype == np.float64
            assert up.tolist() == (-down).tolist() == rewards(load(folder), output=output)
        assert rewards(load(folder), output=0) != rewards(load(folder), output=2)

    def test_model_is_loaded_at_the_first_score_and_kept(self, folder: str) -> None:
        scorers = [make_scorer(folder), make_scorer(folder, output=1)]
        assert kept_classifier.cache_info().misses == 0
        for scorer in scorers:
            scorer.score(COMPLETIONS, reference_logps=NO_LOGPS)
        assert kept_classifier.cache_info().misses == 1

    def test_model_is_in_eval_mode_and_asks_for_no_gradient(self, folder: str) -> None:
        classifier = load(folder)
        assert not classifier.model.training
        classifier.rewards(TEXTS, ClassifierSettings(), fallback=FALLBACK)
        assert all(parameter.grad is None for parameter in classifier.model.parameters())

    def test_a_reward_that_is_not_finite_is_refused(self, folder: str) -> None:
        kept_classifier(ClassifierSource(folder), "cpu").model.score.weight.data.fill_(float("nan"))
        with pytest.raises(InputError) as caught:
            make_scorer(folder).score(COMPLETIONS, reference_logps=NO_LOGPS)
        assert caught.value.problems[0].code == "MS-231"

    @pytest.mark.parametrize(("output", "code"), [(2, None), (3, "MS-284")])
    def test_outputs_are_those_of_the_model(self, folder: str, output: int, code: str | None) -> None:
        scorer = make_scorer(folder, output=output)
        if code is None:
            scorer.score(COMPLETIONS, reference_logps=NO_LOGPS)
            return
        with pytest.raises(InputError) as caught:
            scorer.score(COMPLETIONS, reference_logps=NO_LOGPS)
        (problem,) = caught.value.problems
        assert (problem.code, problem.wanted) == (code, "0 to 2")


class TestLoading:
    def test_a_language_model_without_a_head_is_refused(self, tmp_path: Path) -> None:
        """It would load, with random weights in its place."""
        folder = write_classifier(tmp_path, make_tokenizer(), model=LlamaForCausalLM)
        with pytest.raises(InputError) as caught:
            load(folder)
        (problem,) = caught.value.problems
        assert problem.code == "MS-283"
        assert "score.weight" in problem.got

    def test_what_is_no_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            load(str(tmp_path))
        assert caught.value.problems[0].code == "MS-282"

    def test_a_new_head_has_one_output(self, tmp_path: Path, folder: str) -> None:
        language_model = write_classifier(tmp_path, make_tokenizer(), model=LlamaForCausalLM)
        for source in (language_model, folder):
            torch.manual_seed(1)
            classifier = load_classifier(ClassifierSource(source), "cpu", new_head=True)
            assert classifier.model.config.num_labels == 1
            assert classifier.model.score.weight.shape == (1, 16)

    def test_what_is_saved_scores_in_raw_units(self, tmp_path: Path, folder: str) -> None:
        """scale * output + offset; saved parameters are the float32 ones of the engine."""
        classifier = load(folder)
        parameters = {name: parameter.detach().clone() for name, parameter in classifier.model.named_parameters()}
        classifier.save(tmp_path, parameters, scale=3.0, offset=100.0)
        plain = np.array(rewards(load(folder)))
        assert rewards(load(str(tmp_path))) == pytest.approx((100 + 3 * plain).tolist(), rel=1e-9)

    def test_saving_does_not_invent_a_padding_token(self, tmp_path: Path) -> None:
        classifier = load(write_classifier(tmp_path / "a", make_tokenizer(pad=False), pad_token_id=None))
        rewards(classifier)
        classifier.save(tmp_path / "b", classifier.model.state_dict(), scale=1.0, offset=0.0)
        again = load(str(tmp_path / "b"))
        assert again.pad_token_id is None
        assert rewards(again) == rewards(classifier)


class TestCheck:
    """Without the weights: what can be told before anything starts."""

    def problem(self, folder: str | Path, *, output: int = 0, new_head: bool = False) -> str | None:
        try:
            check_classifier(ClassifierSource(str(folder)), ClassifierSettings(output=output), new_head=new_head)
        except InputError as error:
            return error.problems[0].code
        return None

    def test_a_classifier_and_its_outputs(self, folder: str) -> None:
        assert [self.problem(folder, output=output) for output in (0, 2, 3)] == [None, None, "MS-284"]
        assert [self.problem(folder, output=output, new_head=True) for output in (0, 1)] == [None, "MS-284"]

    def test_what_cannot_be_one(self, folder: str, tmp_path: Path) -> None:
        assert self.problem(tmp_path) == "MS-282"
        shutil.copytree(folder, tmp_path / "vision")
        CLIPVisionConfig().save_pretrained(tmp_path / "vision")
        assert self.problem(tmp_path / "vision") == "MS-282"
