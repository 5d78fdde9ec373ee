"""HH-RLHF: two transcripts that differ in the assistant's last turn, taken apart into chat messages."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from modpo.config.sources import PairColumns
from modpo.data.named.dataset import Dimension, NamedDataset, RawRow, read, unusable

SPEAKER = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}

Turn = tuple[str, str]


def split_transcripts(row: RawRow) -> Iterable[RawRow]:
    """Both transcripts at their last assistant turn: one shared history as messages, and two responses.

    Raises:
        InputError: a transcript of another form, or histories that differ (a handful of rows on the hub).
    """
    history, chosen = _last_turn_apart(row, "chosen")
    other_history, rejected = _last_turn_apart(row, "rejected")
    if history != other_history:
        raise unusable("the two transcripts differ before the last assistant turn", "chosen, rejected")
    messages = [{"role": role, "content": content} for role, content in _alternating(history)]
    yield {"prompt": messages, "chosen": chosen, "rejected": rejected}


def _last_turn_apart(row: RawRow, column: str) -> tuple[list[Turn], str]:
    before, *parts = SPEAKER.split(read(row, column, str))
    turns = [(ROLES[speaker], text.strip()) for speaker, text in zip(parts[::2], parts[1::2], strict=True)]
    roles = [role for role, _ in turns]
    if before.strip() or roles[:1] != ["user"] or roles[-2:] != ["user", "assistant"]:
        raise unusable("the transcript does not start with a Human turn and end with Human and Assistant", column)
    return turns[:-1], turns[-1][1]


def _alternating(turns: Iterable[Turn]) -> Iterable[Turn]:
    # A few transcripts have one speaker twice in a row, which many chat templates refuse: such turns become one.
    for role, same in itertools.groupby(turns, key=lambda turn: turn[0]):
        yield role, "\n\n".join(text for _, text in same)


def _dimension(prefers: str) -> Dimension:
    return Dimension(prefers=prefers, form=PairColumns(), transform=split_transcripts)


HH_RLHF = NamedDataset(
    name="hh-rlhf",
    hub_id="Anthropic/hh-rlhf",
    home="https://huggingface.co/datasets/Anthropic/hh-rlhf",
    licence="MIT",
    dimensions={
        "helpful": _dimension("more helpful, from the folders `helpful-base`, `-online`, `-rejection-sampled`"),
        "harmless": _dimension("less harmful, from the folder `harmless-base`"),
    },
    columns="`chosen`, `rejected`: transcripts `\\n\\nHuman: ...\\n\\nAssistant: ...`",
    checked="the card, and 1,202 rows of the harmless test split",
    traps=(
        "The dimension is the folder, not a column: set `data_dir` to `helpful-base` or `harmless-base`. Without it "
        "the hub mixes all of them, and both dimensions would be the same pairs.",
        "About four rows in a thousand have an empty last turn or different histories: `data.unusable_rows: drop`.",
        "Prompts become chat messages, so the tokenizer needs a chat template.",
        "The texts are offensive: it is safety data, and not meant for supervised fine-tuning.",
    ),
)
