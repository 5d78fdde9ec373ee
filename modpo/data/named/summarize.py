"""Summarize from Feedback: comparisons of two summaries of a Reddit post, and summaries rated along four axes."""

from __future__ import annotations

from collections.abc import Iterable

from modpo.config.sources import ComparedColumns, ScoredColumns
from modpo.data.named.dataset import Dimension, NamedDataset, RawRow, read

AXES = {
    "overall": "better as a whole (1 to 7)",
    "accuracy": "truer to the post (1 to 7)",
    "coverage": "more of what is important in the post (1 to 7)",
    "coherence": "easier to read on its own (1 to 7)",
}


def post_as_prompt(row: RawRow) -> Iterable[RawRow]:
    """Posts stand in `info.post`, the news articles of some validation batches in `info.article`."""
    info = read(row, "info", dict)
    post = info.get("post")
    yield {**row, "prompt": read(info, "article" if post is None and "article" in info else "post", str)}


HOME = "https://github.com/openai/summarize-from-feedback#human-feedback-data"
# Neither the card nor the data's README states one for the comparisons.
LICENCE = "not stated for the comparisons; the TL;DR posts CC BY 4.0"
CHECKED = "the project's README"
INSTRUCTION = "The prompt is the bare post: say what to do with it, such as `data.template: '{prompt}\\n\\nTL;DR:'`."
SCRIPT = "If the hub holds only a loading script, set `revision: refs/convert/parquet` (not tried)."

SUMMARIZE = NamedDataset(
    name="summarize-from-feedback",
    hub_id="openai/summarize_from_feedback",
    home=HOME,
    licence=LICENCE,
    dimensions={
        "preference": Dimension(
            prefers="better as a summary",
            form=ComparedColumns(label="choice", first="summaries.0.text", second="summaries.1.text"),
            transform=post_as_prompt,
        )
    },
    columns="`info.post` or `info.article`, `summaries[0].text`, `summaries[1].text`, `choice` (0 or 1)",
    checked=CHECKED,
    traps=("Set `subset: comparisons`.", INSTRUCTION, SCRIPT),
)

SUMMARIZE_AXES = NamedDataset(
    name="summarize-from-feedback-axis",
    hub_id="openai/summarize_from_feedback",
    home=HOME,
    licence=LICENCE,
    dimensions={
        name: Dimension(
            prefers=prefers,
            form=ScoredColumns(response="summary.text", score=f"summary.axes.{name}"),
            transform=post_as_prompt,
        )
        for name, prefers in AXES.items()
    },
    columns="`info.post` or `info.article`, `summary.text`, `summary.axes.<axis>` (int, may be null)",
    checked=f"{CHECKED}; the range of the ratings from memory of the paper",
    traps=("Set `subset: axis`, and `split` to `test` or `validation`: it has no `train`.", INSTRUCTION, SCRIPT),
)
