"""Objectives in the sweep file: their data, their rewards, and how rows become tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from modpo.config.frozen import MODULE_FUNCTION, Frozen

OBJECTIVE_NAME = r"^[A-Za-z][A-Za-z0-9_]{0,30}$"


class PairColumns(Frozen):
    """Column names of preference pairs. A dotted name reaches into nested rows."""

    prompt: str = "prompt"
    """Text or chat messages."""
    chosen: str = "chosen"
    """The preferred response."""
    rejected: str = "rejected"
    """The other response."""


class ScoredColumns(Frozen):
    """One row per response, with a score from which pairs of the same prompt are formed."""

    score: str
    """Column of this objective's score; a dotted name reaches into nested rows."""
    prompt: str = "prompt"
    """Text or chat messages."""
    response: str = "response"
    """The response that was scored."""
    min_gap: NonNegativeFloat = 0.0
    """Two responses form a pair when their scores differ by more than this."""
    max_pairs_per_prompt: PositiveInt | None = None
    """At most so many pairs of one prompt, drawn at random with the run's seed; all if left out."""


class SourceConfig(Frozen):
    """Rows on disk or on the Hugging Face hub."""

    path: str
    """A .jsonl, .json or .parquet file, a folder, or a hub id such as `org/name`."""
    split: str = "train"
    """Split of a hub data set or folder."""
    revision: str | None = None
    """Commit or tag on the hub."""


class PairsConfig(SourceConfig):
    """Preference data of one objective."""

    columns: PairColumns = PairColumns()
    """Where prompt, chosen and rejected stand."""
    scored: ScoredColumns | None = None
    """Set this where rows are scored responses instead of pairs."""


class ImplicitReward(Frozen):
    """beta_j log(pi_j / pi_ref) of a DPO model of this objective."""

    type: Literal["implicit"]
    """Names this kind of reward."""
    adapter: str | None = None
    """Folder of an existing LoRA adapter on the start model; the objective's own DPO vertex if left out."""
    adapter_beta: PositiveFloat | None = None
    """The beta that adapter was trained with; needed with `adapter`."""


class FunctionReward(Frozen):
    """A Python function `f(prompts, responses) -> list of numbers`, over a whole batch of texts."""

    type: Literal["function"]
    """Names this kind of reward."""
    function: Annotated[str, Field(pattern=MODULE_FUNCTION)]
    """`module:function`, imported only by the workers that score."""


class ObjectiveConfig(Frozen):
    """One axis that people prefer along."""

    name: Annotated[str, Field(pattern=OBJECTIVE_NAME)]
    """Used in weights, tables and file names."""
    pairs: PairsConfig | None = None
    """Preference pairs; an objective without them can only be a margin."""
    reward: Annotated[ImplicitReward | FunctionReward, Field(discriminator="type")] | None = None
    """Where rewards come from; the implicit reward of the objective's own vertex if left out."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """`minimize` negates scores and function rewards once, on entry; pairs always say themselves what is better."""
    beta: PositiveFloat | None = None
    """beta of this objective's DPO vertex, in the declared unit; the training's beta if left out."""
    unit: PositiveFloat = 1.0
    """Size of one unit of the raw reward: weights, beta and the objective values are in these units."""


class DataConfig(Frozen):
    """How rows become tokens, and which prompts are held out."""

    template: str | None = None
    """Plain template such as `Question: {prompt}\\nAnswer:`; the tokenizer's chat template for messages."""
    max_length: PositiveInt = 1024
    """Longest prompt plus response in tokens; longer pairs are dropped and counted."""
    eval_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the prompts held out for evaluation; a prompt is never on both sides."""
    unusable_rows: Literal["error", "drop"] = "error"
    """What becomes of rows with an empty text or two equal responses: refused, or left out and counted."""


class SftData(SourceConfig):
    """Texts to imitate."""

    prompt: str = "prompt"
    """Column of the prompt."""
    response: str = "response"
    """Column of the response."""
