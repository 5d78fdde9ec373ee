"""Where an objective's rewards come from: one class a kind, told apart by `type`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from modpo.config.frozen import MODULE_FUNCTION, Frozen, PathText
from modpo.config.optimisation import OptimisationConfig
from modpo.config.sources import ScoredData


class ImplicitReward(Frozen):
    """beta_j log(pi_j / pi_ref) of a DPO model of this objective."""

    type: Literal["implicit"]
    """Names this kind of reward."""
    adapter: PathText | None = None
    """Folder of an existing LoRA adapter on the start model; the objective's own DPO vertex if left out."""
    adapter_beta: PositiveFloat | None = None
    """The beta that adapter was trained with; needed with `adapter`."""


class FunctionReward(Frozen):
    """A Python function `f(prompts, responses) -> list of numbers`, over a whole batch of texts."""

    type: Literal["function"]
    """Names this kind of reward."""
    function: Annotated[str, Field(pattern=MODULE_FUNCTION)]
    """`module:function`, imported only by the workers that score."""
    batch_size: PositiveInt = 256
    """Responses a call."""
    timeout_seconds: PositiveFloat = 300.0
    """Longest a call may take."""


class ClassifierSettings(Frozen):
    """How a sequence classifier reads a prompt and its response: as text, by its own tokenizer."""

    template: str | None = None
    """Text such as `{prompt}{response}`; the classifier's chat template where it has one and this is left out."""
    max_length: PositiveInt = 1024
    """Longest input in the classifier's tokens; longer ones lose their beginning and are counted."""
    batch_size: PositiveInt = 16
    """Texts scored at once."""
    output: NonNegativeInt = 0
    """Which of the classifier's outputs is the reward."""


class ModelReward(ClassifierSettings):
    """A reward model: anything that `AutoModelForSequenceClassification` loads."""

    type: Literal["model"]
    """Names this kind of reward."""
    name_or_path: PathText
    """Hugging Face id or local folder."""
    revision: str | None = None
    """Commit or tag on the hub."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of its weights."""


class ColumnsReward(Frozen):
    """Numbers that stand in the data beside the responses of every objective's pairs.

    Sampled responses have no such number: the objective is evaluated by the implicit reward of its own pairs.
    """

    type: Literal["columns"]
    """Names this kind of reward."""
    score: str | None = None
    """Column of a response's number in scored rows, or of the list of numbers in ranked rows."""
    chosen: str | None = None
    """Column of the chosen (or first) response's number in pair rows."""
    rejected: str | None = None
    """Column of the rejected (or second) response's number in pair rows."""


class TrainedReward(ClassifierSettings, OptimisationConfig):
    """A reward model that the run itself trains for this objective, with held-out accuracy and calibration."""

    type: Literal["trained"]
    """Names this kind of reward."""
    loss: Literal["bradley-terry", "regression"] = "bradley-terry"
    """On the objective's pairs, or on the numbers of `data`."""
    data: ScoredData | None = None
    """Responses with their numbers; needed for `regression`."""
    name_or_path: PathText | None = None
    """Model that the reward head is put on; the start model if left out."""


RewardConfig = Annotated[
    ImplicitReward | FunctionReward | ModelReward | ColumnsReward | TrainedReward, Field(discriminator="type")
]
