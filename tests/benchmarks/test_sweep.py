"""The sweep benchmark: what it adds up, and that its trainings run nothing but the policy."""

from __future__ import annotations

import pytest
import torch

from benchmarks.sweep import Costs
from benchmarks.sweep_ours import MARGIN, SweepFiles, TrainedPoint, annotate, counted_forwards, train, write_files
from benchmarks.sweep_reference import ReferencePoint, equal_parts, reference_batches, train_reference
from benchmarks.workloads import UNIFORM, ModelSize, token_counts
from modpo.data.prepared import read_columns

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TINY = ModelSize(hidden=64, layers=1, intermediate=172, vocabulary=256)
BATCH_SIZE, EPOCHS = 2, 2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, one_worker: None) -> SweepFiles:
    pairs = UNIFORM.pairs(TINY.vocabulary, shrink=16)
    folder = tmp_path_factory.mktemp("sweep")
    made = write_files(folder, TINY, pairs, batch_size=BATCH_SIZE, num_epochs=EPOCHS)
    annotate(made)
    return made


class TestOurs:
    def test_a_training_runs_the_policy_once_a_micro_batch_and_nothing_else(self, files: SweepFiles) -> None:
        point = train(files, "point", 0.5)
        steps = EPOCHS * UNIFORM.num_pairs // BATCH_SIZE
        assert (point.micro_batches, point.policy_forwards, point.other_forwards) == (steps, steps, 0)
        assert len(point.epochs) == EPOCHS
        assert min(*point.epochs, point.around) > 0
        assert (files.folder / "points" / "point" / "final").is_dir()

    def test_a_forward_pass_of_a_reference_would_be_seen(self) -> None:
        model, tokens = TINY.model(), torch.ones((1, 3), dtype=torch.long)
        with counted_forwards() as found:
            model(input_ids=tokens)
            model.train()(input_ids=tokens)
            with torch.no_grad():
                model(input_ids=tokens)
            model(input_ids=tokens)
        assert (found.before, found.policy, found.other) == (1, 2, 1)

    def test_the_margin_model_is_another_than_the_reference(self, files: SweepFiles) -> None:
        ids = [str(number) for number in range(files.num_pairs)]
        rewards = read_columns(files.folder / "rewards", ids, (f"{MARGIN}_chosen", f"{MARGIN}_rejected"))
        assert all((abs(values) > 1e-6).all() for values in rewards.values())


def test_parts_of_an_epoch_have_every_batch_once_and_equal_tokens() -> None:
    pairs = [pair for _ in range(8) for pair in UNIFORM.pairs(TINY.vocabulary, shrink=4)]
    batches = reference_batches(pairs, 4)
    parts = equal_parts(batches, 3)
    assert sorted(map(id, batches)) == sorted(id(batch) for part in parts for batch in part)
    padded = [sum(token_counts(batch).padded for batch in part) for part in parts]
    assert max(padded) < 1.05 * min(padded)


def test_the_reference_trains_every_pass(files: SweepFiles) -> None:
    batches = reference_batches(UNIFORM.pairs(TINY.vocabulary, shrink=16), BATCH_SIZE)
    point = train_reference(files.start, files.folder / "adapter", batches, primary_weight=0.5, num_passes=2)
    assert len(point.passes) == 2
    assert min(*point.passes, point.loading) > 0


def test_costs_of_a_sweep_by_hand() -> None:
    """Ours: 6 + 10 + N (1 + 2 + 3 + 4). The reference ran a fifth of an epoch in 4 s: 5 + N (2 + 3 * 20)."""
    ours = TrainedPoint(1, (2, 3, 4), micro_batches=3, policy_forwards=3, other_forwards=0, forwards_before=1)
    costs = Costs(6, 5, 10, [ours], [ReferencePoint(2, (4,))], reference_share=0.2)
    assert costs.our_sweep(5, 3) == [6 + 10 + 5 * 10]
    assert costs.our_sweep(1, 1) == [6 + 10 + 1 + 2]
    assert costs.reference_sweep(5, 3) == pytest.approx([5 + 5 * 62])
    whole = Costs(6, 5, 10, [ours], [ReferencePoint(2, (20, 22, 24))], reference_share=1.0)
    assert whole.reference_sweep(5, 3) == pytest.approx([5 + 5 * 68])
    assert whole.reference_sweep(5, 1) == pytest.approx([5 + 5 * 22])
