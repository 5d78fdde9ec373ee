"""Where rows come from, and the forms in which people keep preferences. One row is one JSON object or table row."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from modpo.config.frozen import Frozen, PathText


class SourceConfig(Frozen):
    """Rows on disk, in an object store or on the Hugging Face hub."""

    path: PathText
    """A .jsonl, .json, .csv or .parquet file, a folder of such files, `s3://...`, or a hub id such as `org/name`."""
    split: str = "train"
    """Split of a hub data set."""
    subset: str | None = None
    """Configuration of a hub data set that has several."""
    data_dir: str | None = None
    """Folder inside a hub data set."""
    revision: str | None = None
    """Commit or tag on the hub."""


class PairColumns(Frozen):
    """Column names of preference pairs. A dotted name reaches into nested rows, `a.0` into lists."""

    prompt: str | None = "prompt"
    """Text or chat messages; `null` where it is what both responses begin with (TRL's implicit prompt)."""
    chosen: str = "chosen"
    """The preferred response."""
    rejected: str = "rejected"
    """The other response."""


class ScoredColumns(Frozen):
    """One row per response, with a score from which pairs of the same prompt are formed."""

    score: str
    """Column of this objective's score; empty, null and `N/A` count as missing."""
    prompt: str = "prompt"
    """Text or chat messages."""
    response: str = "response"
    """The response that was scored."""
    min_gap: NonNegativeFloat = 0.0
    """Two responses form a pair when their scores differ by more than this."""
    max_pairs_per_prompt: PositiveInt | None = None
    """At most so many pairs of one prompt, drawn at random with the run's seed; all if left out."""


class RankedColumns(Frozen):
    """One row per prompt with K responses, ranked (1 is best) or scored (higher is better)."""

    responses: str = "responses"
    """List of responses; `responses.text` reaches into each item of a list of objects."""
    ranks: str | None = None
    """List of ranks, 1 is best; give exactly one of `ranks` and `scores`."""
    scores: str | None = None
    """List of scores, or `responses.score` reaching into each item; null and `N/A` count as missing."""
    prompt: str = "prompt"
    """Text or chat messages."""
    min_gap: NonNegativeFloat = 0.0
    """Two responses form a pair when their ranks or scores differ by more than this."""
    max_pairs_per_prompt: PositiveInt | None = None
    """At most so many pairs of one prompt, drawn at random with the run's seed; all if left out."""


class ComparedColumns(Frozen):
    """Two responses a row and a label that says which one people preferred."""

    label: str
    """Column of the label."""
    first: str = "response_0"
    """The response that `first_wins` names."""
    second: str = "response_1"
    """The response that `second_wins` names."""
    prompt: str = "prompt"
    """Text or chat messages."""
    first_wins: tuple[bool | int | str, ...] = (0,)
    """Labels that prefer the first response."""
    second_wins: tuple[bool | int | str, ...] = (1,)
    """Labels that prefer the second response."""
    ties: tuple[bool | int | str, ...] = ()
    """Labels that prefer neither."""


class NamedColumns(Frozen):
    """A public data set that modpo knows: its columns need not be named."""

    dataset: str
    """Such as `pku-saferlhf`; `docs/data.md` lists them with their dimensions."""
    dimension: str
    """What the pairs are about, such as `helpful`."""
    min_gap: NonNegativeFloat | None = None
    """As in `scored`; the data set's own default if left out."""
    max_pairs_per_prompt: PositiveInt | None = None
    """As in `scored`."""


class PairsConfig(SourceConfig):
    """Preference data of one objective, in exactly one form; `columns` where no other is given."""

    columns: PairColumns | None = None
    """Chosen and rejected responses."""
    scored: ScoredColumns | None = None
    """Scored responses, one a row."""
    ranked: RankedColumns | None = None
    """K ranked or scored responses a row."""
    compared: ComparedColumns | None = None
    """Two responses and a label a row."""
    named: NamedColumns | None = None
    """A public data set by name."""

    @property
    def form(self) -> PairColumns | ScoredColumns | RankedColumns | ComparedColumns | NamedColumns:
        """The form that is given."""
        return self.scored or self.ranked or self.compared or self.named or self.columns or PairColumns()


class TextData(SourceConfig):
    """Texts with their prompts."""

    prompt: str = "prompt"
    """Column of the prompt."""
    response: str = "response"
    """Column of the response."""


class PromptData(SourceConfig):
    """Prompts without responses."""

    prompt: str = "prompt"
    """Column of the prompt."""


class ScoredData(TextData):
    """Responses with one number each."""

    score: str = "score"
    """Column of the number, in raw units; `direction` of the objective applies."""


Direction = Literal["maximize", "minimize"]
Normalize = Literal["none", "std", "range"]


class DataConfig(Frozen):
    """How rows become tokens, and which prompts are held out."""

    template: str | None = None
    """Plain template such as `Question: {prompt}\\nAnswer:`; the tokenizer's chat template for messages."""
    system: str | None = None
    """System message put before chat messages that have none."""
    max_length: PositiveInt = 1024
    """Longest prompt plus response in tokens."""
    too_long: Literal["drop", "truncate"] = "drop"
    """What becomes of longer pairs, counted either way: left out, or responses cut at the end (never the prompt)."""
    allow_special_tokens: bool = False
    """Whether `<|im_end|>` and the like in your texts mean the special token; as plain text if not."""
    eval_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the prompts held out for evaluation; a prompt is never on both sides."""
    unusable_rows: Literal["error", "drop"] = "error"
    """What becomes of rows with an empty text or two equal responses: refused, or left out and counted."""
    num_proc: PositiveInt | None = None
    """Processes that tokenise; one a core for large data if left out."""
