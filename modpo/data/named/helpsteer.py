"""HelpSteer 1 to 3: five attributes of every response, and graded comparisons of two."""

from __future__ import annotations

import re
from collections.abc import Iterable

from modpo.config.sources import ComparedColumns, ScoredColumns
from modpo.data.named.dataset import Dimension, NamedDataset, RawRow, Transform, as_they_are, read

SPEAKER = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
ROLES = {"User": "user", "Assistant": "assistant"}
ATTRIBUTES = {
    "helpfulness": "more helpful (0 to 4)",
    "correctness": "more of the facts, and fewer wrong ones (0 to 4)",
    "coherence": "clearer and more consistent (0 to 4)",
    "complexity": "deeper, needing an expert to write (0 to 4)",
    "verbosity": "more detailed than was asked for (0 to 4)",
}
FIRST_BETTER, SECOND_BETTER = (-3, -2, -1), (1, 2, 3)


def prompt_as_messages(row: RawRow) -> Iterable[RawRow]:
    """A prompt of several turns is one text with markers between them, the first turn without one."""
    first, *parts = SPEAKER.split(read(row, "prompt", str))
    turns = [("User", first), *zip(parts[::2], parts[1::2], strict=True)]
    yield {**row, "prompt": [{"role": ROLES[speaker], "content": text} for speaker, text in turns]}


def _attributes(transform: Transform) -> dict[str, Dimension]:
    return {
        name: Dimension(prefers=prefers, form=ScoredColumns(score=name), transform=transform)
        for name, prefers in ATTRIBUTES.items()
    }


def _graded(first: str, second: str, label: str, prompt: str) -> ComparedColumns:
    return ComparedColumns(
        prompt=prompt,
        first=first,
        second=second,
        label=label,
        first_wins=FIRST_BETTER,
        second_wins=SECOND_BETTER,
        ties=(0,),
    )


NEUTRAL = "Complexity and verbosity say how much, not how good: `direction: minimize` prefers less."

HELPSTEER = NamedDataset(
    name="helpsteer",
    hub_id="nvidia/HelpSteer",
    home="https://huggingface.co/datasets/nvidia/HelpSteer",
    licence="CC BY 4.0",
    dimensions=_attributes(as_they_are),
    columns="`prompt`, `response`, and five attributes (int, 0 to 4)",
    checked="the card",
    traps=(NEUTRAL, "Its publishers recommend HelpSteer2 instead."),
)

HELPSTEER2 = NamedDataset(
    name="helpsteer2",
    hub_id="nvidia/HelpSteer2",
    home="https://huggingface.co/datasets/nvidia/HelpSteer2",
    licence="CC BY 4.0",
    dimensions={
        **_attributes(prompt_as_messages),
        "preference": Dimension(
            prefers="better as a whole (-3 to 3); needs `data_dir: preference`",
            form=_graded("response_1", "response_2", "preference_strength", "prompt"),
            transform=prompt_as_messages,
        ),
    },
    columns=(
        "`prompt`, `response`, and five attributes (int, 0 to 4); in the folder `preference`: `prompt`, `response_1`, "
        "`response_2`, `preference_strength`"
    ),
    checked="the card",
    traps=(
        NEUTRAL,
        "Two responses a prompt, so one pair or a tie.",
        "29 % of the prompts have several turns with `<extra_id_1>` between them: all prompts become chat messages, so "
        "the tokenizer needs a chat template.",
        "`preference_strength` is negative where response 1 is better. That folder's `train` also holds the validation "
        "rows.",
    ),
)

HELPSTEER3 = NamedDataset(
    name="helpsteer3",
    hub_id="nvidia/HelpSteer3",
    home="https://huggingface.co/datasets/nvidia/HelpSteer3",
    licence="CC BY 4.0",
    dimensions={
        "preference": Dimension(
            prefers="better as a whole (-3 to 3)",
            form=_graded("response1", "response2", "overall_preference", "context"),
        )
    },
    columns="`context` (chat messages), `response1`, `response2`, `overall_preference` (int, -3 to 3)",
    checked="the card for scale and licence; column names by code that reads them",
    traps=(
        "`overall_preference` is negative where response 1 is better.",
        "`min_gap: 1` counts the slight preferences (-1 and 1) as ties.",
        "14 languages and code among them; `domain` and `language` are not looked at.",
    ),
)
