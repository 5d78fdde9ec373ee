"""Topical-Chat as UniEval publishes it: six responses a dialogue with six human scores each."""

from __future__ import annotations

from modpo.config.sources import ScoredColumns
from modpo.data.named.dataset import Dimension, NamedDataset

SCORES = {
    "understandability": "understandable after this dialogue (0 or 1)",
    "naturalness": "more like something a person would say (1 to 3)",
    "coherence": "more to the point of the dialogue (1 to 3)",
    "engagingness": "more interesting (1 to 3)",
    "groundedness": "uses the given fact (0 or 1)",
    "overall": "better as a whole (1 to 5)",
}

TOPICAL_CHAT = NamedDataset(
    name="topical-chat",
    hub_id=None,
    home="https://github.com/maszhongming/UniEval",
    licence="MIT (UniEval's repository)",
    dimensions={
        name: Dimension(
            prefers=prefers,
            form=ScoredColumns(prompt="source", response="system_output", score=f"scores.{name}"),
        )
        for name, prefers in SCORES.items()
    },
    columns="`source`, `system_output`, `scores.<dimension>` (float, mean of annotators)",
    checked="252 rows",
    traps=(
        "It is no hub data set: set `path` to the file.",
        "The fact that `groundedness` is about stands in `context` and is no part of the prompt.",
        "42 dialogues are few: enough to try a sweep, not to train a model.",
    ),
)
