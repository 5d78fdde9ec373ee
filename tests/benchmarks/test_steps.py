"""The steps that ours is compared with are what they say: their operations, their losses and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import trl_step, variants
from benchmarks.reference_step import MARGIN, POLICY, padded_pairs, reference_loss
from benchmarks.variants import BETA, OURS, PADDING_FREE, REFERENCE, REFERENCE_CACHED, REFERENCE_LOSS, Case, Step
from benchmarks.workloads import END, H512, QA, SAFETY, UNIFORM, ModelSize, Workload, randomise_adapter, token_counts
from modpo.core.flops import step_flops
from modpo.core.trees import Tree, tree_batch
from modpo.utilisation import matmul_shape

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TINY = ModelSize(hidden=64, layers=2, intermediate=172, vocabulary=512)
# FLOP ratios of the reference step over an exact step, as the project's first prototypes were counted.
COUNTED_RATIOS = {UNIFORM: 4.39, QA: 6.46}


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(TINY, UNIFORM.pairs(TINY.vocabulary, shrink=8))


def gradient(step: Step) -> torch.Tensor:
    step.clear()
    step.run()
    return torch.cat([parameter.grad.flatten() for parameter in step.trained])


def executed_products(run: Callable[[], object]) -> int:
    """Operations of all matrix products but the attention's own, on tensors without numbers."""
    with FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts()["Global"]
    return sum(count for name, count in counts.items() if name.__name__.split(".")[0] in {"mm", "addmm"})


class TestReferenceStep:
    @pytest.mark.parametrize("variant", [REFERENCE, REFERENCE_CACHED, PADDING_FREE])
    def test_same_loss_and_gradients_as_ours(self, case: Case, variant: str, tmp_path: Path) -> None:
        exact = replace(case, size=replace(TINY, dtype=torch.float64))
        ours, other = exact.step(OURS, tmp_path), exact.step(variant, tmp_path)
        assert other.run() == pytest.approx(ours.run(), rel=1e-9)
        expected = gradient(ours)
        assert expected.norm() > 1e-3
        # Rotary embeddings and norms stay in float32 inside the models.
        assert torch.allclose(gradient(other), expected, rtol=0, atol=1e-6 * expected.abs().max().item())

    @pytest.mark.parametrize("workload", COUNTED_RATIOS, ids=lambda workload: workload.name)
    def test_it_costs_what_was_counted(self, workload: Workload) -> None:
        """Executed matrix products and causal attention at full size, over the operations that an exact step needs."""
        policy, pairs = H512.policy(), workload.pairs(H512.vocabulary)
        shape = matmul_shape(policy)
        policy.add_adapter(MARGIN, policy.peft_config[POLICY])
        policy.set_adapter(POLICY)
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        with FakeTensorMode(allow_non_fake_inputs=True):
            batch = padded_pairs(pairs, pad_token_id=END)
            products = executed_products(
                lambda: torch.autograd.grad(reference_loss(policy, batch, REFERENCE_LOSS), trained)
            )
        counts = token_counts(pairs)
        # Queries times keys and attention times values: four times forwards, and twice that going back.
        attention = (4 + 2) * 2 * 2 * shape.attention * counts.padded * (counts.longest + 1) // 2
        trees = tree_batch([Tree(pair.prompt_ids, (pair.chosen_ids, pair.rejected_ids)) for pair in pairs])
        needed = step_flops(shape, trees.layout, len(trees.targets))
        assert (products + attention) / needed == pytest.approx(COUNTED_RATIOS[workload], rel=0.1)

    def test_only_the_policys_adapter_trains(self, case: Case, tmp_path: Path) -> None:
        """Switching adapters and back leaves the margin's without a gradient, step after step."""
        step = case.step(REFERENCE, tmp_path)
        first = gradient(step)
        assert torch.equal(gradient(step), first)
        assert len(step.trained) == len(case.step(OURS, tmp_path).trained)


@pytest.mark.skipif(not trl_step.is_installed(), reason="TRL is in the extra `baselines`")
class TestTrl:
    @pytest.mark.filterwarnings("ignore")  # of other people's code
    @pytest.mark.parametrize("variant", variants.OF_TRL)
    def test_its_loss_is_plain_dpo_on_the_same_tokens(self, case: Case, variant: str, tmp_path: Path) -> None:
        """The same pairs, model and adapter: w = e_k of our reference step, whose margin then has no weight."""
        trl = case.step(variant, tmp_path)
        policy = TINY.policy()
        policy.add_adapter(MARGIN, policy.peft_config[POLICY])
        policy.set_adapter(POLICY)
        plain = replace(REFERENCE_LOSS, primary_weight=1.0, margin_weight=0.0, beta=BETA)
        loss = reference_loss(policy, padded_pairs(case.pairs, pad_token_id=END), plain)
        loss.backward()
        assert trl.run() == pytest.approx(loss.item(), rel=1e-4)
        expected = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
        assert torch.allclose(gradient(trl), expected, rtol=0, atol=1e-3 * expected.abs().max().item())


class TestWorkloads:
    # padded, flat, unique and response tokens of the batches that the first prototypes were measured on.
    @pytest.mark.parametrize(
        ("workload", "expected"),
        [
            (UNIFORM, (6120, 4665, 3382, 2099)),
            (SAFETY, (8652, 4244, 3821, 3398)),
            (QA, (9444, 6046, 3718, 1390)),
        ],
        ids=["uniform", "safety", "qa"],
    )
    def test_batches_have_the_token_counts_of_the_first_measurements(
        self, workload: Workload, expected: tuple[int, ...]
    ) -> None:
        counts = token_counts(workload.pairs(H512.vocabulary))
        assert (counts.padded, counts.flat, counts.unique, counts.responses) == pytest.approx(expected, rel=0.011)

    def test_every_response_ends_and_only_there(self) -> None:
        for pair in UNIFORM.pairs(TINY.vocabulary):
            assert END not in pair.prompt_ids
            for response in (pair.chosen_ids, pair.rejected_ids):
                assert response.index(END) == len(response) - 1

    def test_adapters_of_two_seeds_differ(self) -> None:
        policy = TINY.policy()
        before = [parameter.clone() for parameter in policy.parameters() if parameter.requires_grad]
        randomise_adapter(policy, POLICY, seed=2)
        after = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))
