"""Rewards from a sequence classifier: a user's reward model, or one that the run trained itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from modpo.config.rewards import ClassifierSettings
from modpo.errors import InputError, Problem, shown
from modpo.model_files import UNLOADABLE, loading_problem
from modpo.models import DTYPES, make_sequences, to_device
from modpo.rewards.base import Completion, finite
from modpo.rewards.rendering import Rendering, Tokens
from modpo.watch import each

logger = logging.getLogger(__name__)

KEPT_CLASSIFIERS = 2
SCALE, OFFSET = "reward_scale", "reward_offset"
"""Entries of a classifier's config: the reward is scale * output + offset. Many heads have no bias to hold it."""


@dataclass(frozen=True)
class ClassifierSource:
    """Where a classifier is loaded from, and the precision of its weights."""

    name_or_path: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass
class Classifier:
    """A loaded sequence classifier with its own tokenizer.

    Attributes:
        pad_token_id: the one in its config; None where it has none.
        reported: whether it has been told that texts are too long.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pad_token_id: int | None
    name: str
    reported: bool = False

    def tokens(self, texts: Sequence[tuple[Any, str]], settings: ClassifierSettings, *, fallback: str) -> list[Tokens]:
        """Tokens of (prompt, response) texts; says once how many of them were too long."""
        limit = min(settings.max_length, self._longest_input())
        rendering = Rendering(self.tokenizer, settings.template, fallback, limit)
        tokens, too_long = rendering.tokens([rendering.text(prompt, response) for prompt, response in texts])
        if too_long and not self.reported:
            self.reported = True
            logger.warning(
                "%d of %d texts are longer than the %d tokens that classifier %s reads: their beginning is left out",
                too_long,
                len(texts),
                limit,
                self.name,
            )
        return tokens

    def outputs(self, tokens: Sequence[Tokens], *, model: torch.nn.Module | None = None) -> Tensor:
        """One forward pass: (N, num_labels) float64.

        Args:
            model: what to call in place of the model, such as an engine around it.
        """
        pad_token_id = self.pad_token_id
        if pad_token_id is None:
            # Decoders read the output at the last token that is not padding, so without a padding token of its own
            # any will do that no text ends with. The end token would move the output to the token before it.
            last = {ids[-1] for ids in tokens}
            pad_token_id = next(token for token in count() if token not in last)
            self.model.config.get_text_config().pad_token_id = pad_token_id
        batch = make_sequences(tokens, [()] * len(tokens), pad_token_id=pad_token_id)
        batch = to_device(batch, self.model.device)
        logits: Tensor = (model or self.model)(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        return logits.double()

    @torch.no_grad()
    def rewards(
        self, texts: Sequence[tuple[Any, str]], settings: ClassifierSettings, *, fallback: str
    ) -> NDArray[np.float64]:
        """Rewards (N,) of (prompt, response) texts in the classifier's units, longest first.

        Raises:
            InputError: it has no such output.
        """
        check_output(self.model.config.num_labels, settings.output, self.name)
        tokens = self.tokens(texts, settings, fallback=fallback)
        # By tokens too where lengths are equal: then no order of the texts changes what shares a batch.
        order = sorted(range(len(tokens)), key=lambda row: (-len(tokens[row]), tokens[row]))
        rewards = np.empty(len(tokens))
        for start in each(range(0, len(order), settings.batch_size)):
            rows = order[start : start + settings.batch_size]
            rewards[rows] = self.outputs([tokens[row] for row in rows])[:, settings.output].cpu().numpy()
        stored = self.model.config.to_dict()
        return float(stored.get(SCALE, 1.0)) * rewards + float(stored.get(OFFSET, 0.0))

    def save(self, folder: Path, parameters: dict[str, Tensor], *, scale: float, offset: float) -> None:
        """Writes trained parameters, as they are, with config and tokenizer in Hugging Face's layout.

        Args:
            scale: what an output is multiplied by.
            offset: what is added then, to give the reward.
        """
        config = self.model.config
        config.get_text_config().pad_token_id = self.pad_token_id
        config.update({SCALE: scale, OFFSET: offset})
        self.model.save_pretrained(folder, state_dict=parameters)
        self.tokenizer.save_pretrained(str(folder))

    def _longest_input(self) -> int:
        """Positions that the model has; a tokenizer that knows no limit says a very large number."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return min(int(self.tokenizer.model_max_length), positions or int(self.tokenizer.model_max_length))


@dataclass(frozen=True)
class ClassifierScorer:
    """A classifier's output on the text of prompt and response, times `sign`; loaded when it first scores.

    Attributes:
        base: the start model, whose device the classifier is put on.
        fallback: template of a classifier that has none of its own.
    """

    objective: str
    source: ClassifierSource
    settings: ClassifierSettings
    sign: float
    base: PreTrainedModel
    fallback: str

    def score(self, completions: Sequence[Completion], *, reference_logps: NDArray[np.float64]) -> NDArray[np.float64]:
        classifier = kept_classifier(self.source, str(self.base.device))
        texts = [(c.prompt, c.response) for c in completions]
        rewards = classifier.rewards(texts, self.settings, fallback=self.fallback)
        return self.sign * finite(self.objective, rewards, len(completions))


def load_classifier(source: ClassifierSource, device: str, *, new_head: bool = False) -> Classifier:
    """A classifier in eval mode on a device.

    Args:
        new_head: puts a fresh head with one output on a model that has none, from torch's random state.

    Raises:
        InputError: it cannot be loaded as a sequence classifier, or has no trained head.
    """
    where, revision = source.name_or_path, source.revision
    head = {"num_labels": 1, "ignore_mismatched_sizes": True} if new_head else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
        model, found = AutoModelForSequenceClassification.from_pretrained(
            where,
            revision=revision,
            trust_remote_code=False,
            dtype=DTYPES[source.dtype],
            output_loading_info=True,
            **head,
        )
    except UNLOADABLE as error:
        raise InputError(loading_problem(_not_loadable(where, str(error)), error, shown(where))) from error
    missing = sorted(found["missing_keys"])
    if missing and not new_head:
        raise InputError(_without_head(where, missing))
    text_config = model.config.get_text_config()
    # Scoring reads a text once, and a cache of it is memory for nothing.
    text_config.use_cache = False
    return Classifier(model.to(device).eval(), tokenizer, text_config.pad_token_id, where)


@lru_cache(maxsize=KEPT_CLASSIFIERS)
def kept_classifier(source: ClassifierSource, device: str) -> Classifier:
    """A classifier that stays in the process: scorers are made anew for every point."""
    return load_classifier(source, device)


def check_classifier(source: ClassifierSource, settings: ClassifierSettings, *, new_head: bool = False) -> None:
    """Loads a classifier's config and tokenizer, without its weights.

    Args:
        new_head: the model gets a head of its own, so that any kind that can have one will do.

    Raises:
        InputError: one of them cannot be loaded, the model is no classifier, or it has no such output.
    """
    name = source.name_or_path
    try:
        AutoTokenizer.from_pretrained(name, revision=source.revision, trust_remote_code=False)
        found = AutoConfig.from_pretrained(name, revision=source.revision, trust_remote_code=False)
    except UNLOADABLE as error:
        raise InputError(loading_problem(_not_loadable(name, str(error)), error, shown(name))) from error
    if type(found) not in AutoModelForSequenceClassification._model_mapping:
        raise InputError(_not_loadable(name, f"a {found.model_type} model"))
    check_output(1 if new_head else found.num_labels, settings.output, name)


def check_output(num_labels: int, output: int, name: str) -> None:
    """Refuses an output that a classifier does not have.

    Raises:
        InputError: always then.
    """
    if output >= num_labels:
        raise InputError(
            Problem(
                code="MS-284",
                what="the classifier has no such output",
                where="objectives.reward.output",
                got=f"output {output} of {name}",
                wanted=f"0 to {num_labels - 1}",
                remedy="outputs are counted from 0; the model's card says what each of them means",
            )
        )


def _not_loadable(name: str, reason: str) -> Problem:
    return Problem(
        code="MS-282",
        what="the reward model cannot be loaded",
        where="objectives.reward.name_or_path",
        got=f"{name}: {' '.join(reason.split())[:200]}",
        wanted="a model for AutoModelForSequenceClassification, on disk or on a hub that this machine can reach",
        remedy="check the name and the network, or give a local folder",
    )


def _without_head(name: str, missing: Sequence[str]) -> Problem:
    return Problem(
        code="MS-283",
        what="the reward model has no trained classification head, so its rewards would be random",
        where="objectives.reward.name_or_path",
        got=f"{name} lacks {', '.join(missing[:5])}",
        wanted="a model that was trained and saved as a sequence classifier",
        remedy="name one, or train one on this model with `type: trained`",
    )
