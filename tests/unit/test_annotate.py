"""The annotation is one table whatever shares it was made in, and each model sees each text once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from modpo import annotate
from modpo.annotate import annotate_shard, distinct_completions, merge_shards, pair_completions, shares
from modpo.artifacts import is_valid
from modpo.config import SweepConfig
from modpo.config.spec import StageInputs
from modpo.core.trees import TreeBatch
from modpo.data.demo.rewards import brief, vivid
from modpo.data.pair_table import open_margin_rewards, open_pair_table
from modpo.data.prepared import read_pairs
from modpo.errors import InternalError
from modpo.rewards.base import Completion
from modpo.scoring import ResponseModel
from tests.acceptance.plugin import Accept
from tests.counting import counted_responses, num_responses
from tests.sweeps import world_sweep
from tests.unit.adapters import save_random_adapter
from tests.unit.annotations import CPU, annotated, columns, prepared_inputs, work

SCORED_ONCE = "responses that a model scores more or less than once"


@pytest.fixture(scope="module")
def config(demo_world: Path) -> SweepConfig:
    return world_sweep(demo_world, evaluation={"batch_size": 16})


@pytest.fixture(scope="module")
def inputs(config: SweepConfig, tmp_path_factory: pytest.TempPathFactory) -> StageInputs:
    return prepared_inputs(tmp_path_factory.mktemp("annotate") / "prepared", config)


@pytest.fixture(scope="module")
def prepared(inputs: StageInputs) -> Path:
    return Path(inputs.prepared)


@pytest.fixture(scope="module")
def reference(config: SweepConfig, inputs: StageInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotated(tmp_path_factory.mktemp("reference"), config, inputs, "reference")


def assert_same_values(table: Path, expected: Path) -> None:
    """Up to rounding: rows are filled otherwise."""
    shared, whole = columns(table), columns(expected)
    assert shared.keys() == whole.keys()
    assert shared["pair_id"] == whole["pair_id"]
    for name in set(whole) - {"pair_id"}:
        assert shared[name] == pytest.approx(whole[name], abs=1e-4)


@pytest.mark.parametrize(("shards", "ranks"), [(1, 3), (4, 1), (2, 2)])
def test_shares_do_not_change_the_table(
    reference: Path, config: SweepConfig, inputs: StageInputs, tmp_path: Path, shards: int, ranks: int
) -> None:
    assert_same_values(annotated(tmp_path, config, inputs, "reference", shards=shards, ranks=ranks), reference)


def test_rewards_are_those_of_the_texts(
    reference: Path, prepared: Path, config: SweepConfig, inputs: StageInputs, tmp_path: Path
) -> None:
    """Both objectives on both sides of every pair, whichever objective the pair belongs to, in raw units."""
    scored = inputs.model_copy(update={"reference": str(reference)})
    stored = columns(annotated(tmp_path, config, scored, "rewards", shards=2, ranks=2))
    pairs = read_pairs(prepared)
    for name, reward in (("vivid", vivid), ("brief", brief)):
        for side in ("chosen", "rejected"):
            expected = reward([pair.prompt for pair in pairs], [getattr(pair, side) for pair in pairs])
            assert stored[f"{name}_{side}"] == pytest.approx(expected)


def test_trials_map_the_numbers_of_the_tables(
    reference: Path, prepared: Path, config: SweepConfig, inputs: StageInputs, tmp_path: Path
) -> None:
    """The same rows in the same order, with the tokens of pairs.parquet."""
    scored = inputs.model_copy(update={"reference": str(reference)})
    rewards = annotated(tmp_path, config, scored, "rewards")
    assert is_valid(reference) and is_valid(rewards)
    table, stored, pairs = open_pair_table(reference), columns(reference), read_pairs(prepared)
    assert stored["pair_id"] == columns(rewards)["pair_id"] == [pair.pair_id for pair in pairs]
    assert [[t.prompt_ids, *t.response_ids] for t in table.trees(np.arange(len(table)))] == [
        [pair.prompt_ids, pair.chosen_ids, pair.rejected_ids] for pair in pairs
    ]
    assert [table.objectives[number] for number in table.records["objective"]] == [pair.objective for pair in pairs]
    logps = zip(stored["reference_chosen_logps"], stored["reference_rejected_logps"], strict=True)
    assert table.records["reference_logps"].tolist() == list(map(list, logps))
    stored = columns(rewards)
    for name in ("vivid", "brief"):
        mapped = open_margin_rewards(rewards, name, num_pairs=len(pairs))
        assert mapped.T.tolist() == [stored[f"{name}_chosen"], stored[f"{name}_rejected"]]


def test_a_completion_is_scored_once_however_often_it_appears(prepared: Path) -> None:
    pairs = read_pairs(prepared)
    distinct = distinct_completions([*pairs, *pairs])
    keys = [completion.key for completion in distinct]
    assert len(keys) == len(set(keys)) < 2 * len(pairs)
    assert set(keys) == {completion.key for pair in pairs for completion in pair_completions(pair)}


class TestScoredOnce:
    """Counted where models are called: over all shards, attempts and objectives, each model sees each text once."""

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(cls, config: SweepConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
        """An adapter for each objective."""
        folder = tmp_path_factory.mktemp("adapters")
        return {
            name: save_random_adapter(config.model, folder / name, seed=seed)
            for seed, name in enumerate(config.objective_names)
        }

    @pytest.fixture(scope="class")
    @classmethod
    def implicit(cls, config: SweepConfig, adapters: dict[str, Path]) -> SweepConfig:
        """Both objectives over the same texts, each with the implicit reward of its adapter."""
        raw = config.model_dump(mode="json")
        for objective in raw["objectives"]:
            adapter = str(adapters[objective["name"]])
            objective["reward"] = {"type": "implicit", "adapter": adapter, "adapter_beta": 0.5}
            objective["pairs"] = raw["objectives"][0]["pairs"]
        return SweepConfig.model_validate(raw)

    @pytest.fixture(scope="class")
    @classmethod
    def doubled(cls, implicit: SweepConfig, tmp_path_factory: pytest.TempPathFactory) -> StageInputs:
        return prepared_inputs(tmp_path_factory.mktemp("doubled") / "prepared", implicit)

    def test_two_objectives_over_the_same_texts(
        self, implicit: SweepConfig, doubled: StageInputs, tmp_path: Path, accept: Accept
    ) -> None:
        """Every pair stands there twice; the start model and both adapters see its texts once each."""
        pairs, seen = read_pairs(Path(doubled.prepared)), list[TreeBatch]()
        texts = {completion.key for pair in pairs for completion in pair_completions(pair)}
        assert len(texts) <= len(pairs), "each text of one objective is also one of the other"
        with counted_responses(seen):
            reference = annotated(tmp_path, implicit, doubled, "reference", shards=2)
            accept("D6", SCORED_ONCE, abs(num_responses(seen) - len(texts)), at_most=0)
            seen.clear()
            scored = doubled.model_copy(update={"reference": str(reference)})
            annotated(tmp_path, implicit, scored, "rewards", shards=2)
        accept("D6", SCORED_ONCE, abs(num_responses(seen) - 2 * len(texts)), at_most=0)

    def test_a_response_of_several_pairs(
        self, prepared: Path, config: SweepConfig, inputs: StageInputs, tmp_path: Path, accept: Accept
    ):
        pairs, seen = read_pairs(prepared), list[TreeBatch]()
        shared = Counter(completion.key for pair in pairs for completion in pair_completions(pair))
        assert max(shared.values()) > 1, "no response of this world is in two pairs"
        with counted_responses(seen):
            annotated(tmp_path, config, inputs, "reference")
        accept("D6", SCORED_ONCE, abs(num_responses(seen) - len(shared)), at_most=0)

    def test_a_second_start_scores_the_missing_shard_only(
        self, config: SweepConfig, inputs: StageInputs, reference: Path, tmp_path: Path
    ) -> None:
        """One shard of two was done when the run was killed."""
        parts, seen = tmp_path / "parts", list[TreeBatch]()
        one, two = (work(config, inputs, "reference", parts, (shard, 2)) for shard in range(2))
        first = annotate_shard(one, rank=0, world_size=1, device=CPU)
        with counted_responses(seen):
            again = [annotate_shard(each, rank=0, world_size=1, device=CPU) for each in (one, two)]
        total = len(distinct_completions(read_pairs(Path(inputs.prepared))))
        assert again == [0, total - first] and 0 < first < total
        assert num_responses(seen) == total - first
        merge_shards(two, output=tmp_path / "table", description={})
        stored = columns(tmp_path / "table")
        for name in ("reference_chosen_logps", "reference_rejected_logps"):
            assert stored[name] == pytest.approx(columns(reference)[name], abs=1e-4)

    @pytest.mark.parametrize("layout", [(1, 1), (3, 1), (2, 2)])
    def test_another_cluster_goes_on_with_what_is_there(
        self, reference: Path, config: SweepConfig, inputs: StageInputs, tmp_path: Path, layout: tuple[int, int]
    ) -> None:
        """The first start had two slots of one worker; the second has other slots or workers."""
        parts, (shards, ranks) = tmp_path / "parts", layout
        first = annotate_shard(work(config, inputs, "reference", parts, (0, 2)), rank=0, world_size=1, device=CPU)
        second = sum(
            annotate_shard(
                work(config, inputs, "reference", parts, (shard, shards)), rank=rank, world_size=ranks, device=CPU
            )
            for shard in range(shards)
            for rank in range(ranks)
        )
        assert first + second == len(distinct_completions(read_pairs(Path(inputs.prepared))))
        assert merge_shards(work(config, inputs, "reference", parts), output=tmp_path / "table", description={}) == len(
            read_pairs(Path(inputs.prepared))
        )
        assert_same_values(tmp_path / "table", reference)

    def test_a_worker_lost_in_a_shard_loses_one_part(
        self, config: SweepConfig, inputs: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Parts of 20 completions; the process ends in the third."""
        monkeypatch.setattr(annotate, "PART_COMPLETIONS", 20)
        whole, seen = work(config, inputs, "reference", tmp_path / "parts"), list[TreeBatch]()

        def end_in_third_part(module: torch.nn.Module, _: object) -> None:
            if isinstance(module, ResponseModel) and num_responses(seen) >= 40:
                raise KeyboardInterrupt

        ending = register_module_forward_pre_hook(end_in_third_part)
        with counted_responses(seen), pytest.raises(KeyboardInterrupt):
            annotate_shard(whole, rank=0, world_size=1, device=CPU)
        ending.remove()
        assert num_responses(seen) == 40
        total = len(distinct_completions(read_pairs(Path(inputs.prepared))))
        assert annotate_shard(whole, rank=0, world_size=1, device=CPU) == total - 40
        assert annotate_shard(whole, rank=0, world_size=1, device=CPU) == 0


class TestShares:
    def completions(self) -> list[Completion]:
        """60 prompts of 1 to 40 tokens with two responses each; every fourth response is long."""
        return [
            Completion("", "", tuple(range(1, 2 + number % 40)), (number + 100, *[side] * (1 + 90 * (number % 4 == 0))))
            for number in range(60)
            for side in (1, 2)
        ]

    @pytest.mark.parametrize("num_shares", [1, 2, 4])
    def test_have_about_as_many_tokens_and_everything_once(self, config: SweepConfig, num_shares: int) -> None:
        completions = self.completions()
        found = shares(
            completions, work(config, StageInputs(prepared="", start_model=""), "reference", Path()), num_shares
        )
        assert sorted(c.key for share in found for c in share) == sorted(c.key for c in completions)
        # A prompt stands once for all its responses.
        prompts = [{c.prompt_ids for c in share} for share in found]
        tokens = [
            sum(map(len, roots)) + sum(len(c.response_ids) for c in share)
            for roots, share in zip(prompts, found, strict=True)
        ]
        assert max(tokens) / (sum(tokens) / len(tokens)) <= 1.05

    def test_responses_to_one_prompt_stay_together(self, config: SweepConfig) -> None:
        found = shares(
            self.completions(), work(config, StageInputs(prepared="", start_model=""), "reference", Path()), 4
        )
        prompts = [{c.prompt_ids for c in share} for share in found]
        together = Counter(prompt for share in prompts for prompt in share)
        assert set(together.values()) == {1}


def test_a_lost_share_is_not_passed_over(config: SweepConfig, inputs: StageInputs, tmp_path: Path) -> None:
    """Of two ranks one did its part: the table is refused by the ids that it lacks, and nothing is written."""
    parts = tmp_path / "parts"
    annotate_shard(work(config, inputs, "reference", parts), rank=0, world_size=2, device=CPU)
    with pytest.raises(InternalError, match="the reference table lacks"):
        merge_shards(work(config, inputs, "reference", parts), output=tmp_path / "table", description={})
    assert not (tmp_path / "table").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]
