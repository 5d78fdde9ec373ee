"""Deliberate faults, each with the test that must fail for it: mistakes that were made in this method before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """One line of the code made wrong.

    Attributes:
        name: what is wrong with it.
        file: of the repository.
        text: what stands there, exactly once.
        replacement: what stands there instead.
        test: the test that must fail, by a failed assertion.
    """

    name: str
    file: str
    text: str
    replacement: str
    test: str

    def plant(self, repository: Path) -> None:
        """Makes the file of this copy wrong."""
        path = repository / self.file
        source = path.read_text(encoding="utf-8")
        found = source.count(self.text)
        assert found == 1, f"{self.name}: its text stands {found} times in {self.file}, and must stand there once"
        path.write_text(source.replace(self.text, self.replacement), encoding="utf-8")


FAULTS = (
    Fault(
        name="sign of the margin",
        file="modpo/core/losses.py",
        text="return scale * (settings.beta * log_ratio_gap(policy, reference) - margin(",
        replacement="return scale * (settings.beta * log_ratio_gap(policy, reference) + margin(",
        test="tests/unit/core/test_losses.py::TestByHand::test_three_objectives",
    ),
    Fault(
        name="missing 1 / w_k",
        file="modpo/core/losses.py",
        text=" / settings.weights[settings.primary]",
        replacement="",
        test="tests/unit/core/test_losses.py::test_gradient_is_the_closed_form",
    ),
    Fault(
        name="the policy's beta for the margin of a vertex",
        file="modpo/rewards/scorers.py",
        text="objective.unit * config.vertex_beta(objective)",
        replacement="objective.unit * config.training.beta",
        test="tests/unit/rewards/test_scorers.py::TestImplicit"
        "::test_scale_is_the_beta_that_the_vertex_was_trained_with",
    ),
    Fault(
        name="the policy's beta for the margin of an adapter",
        file="modpo/rewards/scorers.py",
        text="Path(implicit.adapter), implicit.adapter_beta",
        replacement="Path(implicit.adapter), config.training.beta",
        test="tests/unit/rewards/test_scorers.py::TestImplicit"
        "::test_a_given_adapter_has_its_own_beta_whatever_the_unit",
    ),
    Fault(
        name="padding counted in the log-probabilities",
        file="modpo/models.py",
        text="labels[row, len(prompt) : end] = input_ids[row, len(prompt) : end]",
        replacement="labels[row, len(prompt) :] = input_ids[row, len(prompt) :]",
        test="tests/unit/test_models.py::TestLogps::test_equal_to_one_forward_per_token",
    ),
    Fault(
        name="the other response's reference",
        file="modpo/training/batches.py",
        text="PairLogps(logps[:, 0], logps[:, 1])",
        replacement="PairLogps(logps[:, 1], logps[:, 0])",
        test="tests/unit/training/test_batches.py::test_every_number_stands_beside_its_pair_side_and_objective",
    ),
    Fault(
        name="the policy as its own reference",
        file="modpo/models.py",
        text="with wrapped.disable_adapter():",
        replacement="with nullcontext():",
        test="tests/unit/test_models.py::TestTrainedModel::test_an_adapter_is_put_in_and_taken_out",
    ),
)
