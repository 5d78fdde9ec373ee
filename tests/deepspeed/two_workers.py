"""What two workers do together: one of the processes of `python -m tests.deepspeed.two_workers RUN_DIR OUTPUT`.

Each line of its input is a task, as `pair.Pair` writes it. Rank 0 leaves each outcome in a folder of `OUTPUT`; a task
that fails ends the process.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from modpo.config import SweepConfig
from modpo.config.optimisation import OptimisationConfig
from modpo.core.workload import StepTotals
from modpo.errors import TrialError
from modpo.training.batches import AnnotatedPairs
from modpo.training.cotraining import train_together
from modpo.training.engine import DeepSpeedEngine
from modpo.training.point import save_final
from modpo.training.process_group import process_group
from modpo.training.step import MicroBatch, MicroBatchResult, TrainEngine
from tests.deepspeed.cells import BY_NAME
from tests.deepspeed.held import held_and_expected
from tests.deepspeed.resizing import train_segment, uneven
from tests.deepspeed.trainings import (
    DROPOUT_LORA,
    GLOBAL_BATCH_SIZE,
    KINDS,
    LORA,
    SAVED_STEP,
    STAGES,
    Outcome,
    annotated_pairs,
    mixtures,
    one_pair_a_prompt,
    point_work,
    sweep_config,
    train_interrupted,
    train_to_end,
)

ACCOUNTED_STEPS = 3
CROSSINGS = ((2, 0, "lora"), (2, 0, "full"), (3, 1, "lora"))
"""(ZeRO stage of two workers, of one worker, kind of training) between which checkpoints are moved. Within one stage
they are moved in every cell of the support matrix."""


@dataclass(frozen=True)
class Place:
    """Where the cases read and write."""

    run_dir: Path
    output: Path

    def checkpoints(self, name: str) -> Path:
        return self.output / name / "checkpoints"


def trained(place: Place, cell: str) -> Iterator[tuple[str, Outcome]]:
    """The global batch in two halves, or in two micro-batches of each half."""
    name = f"trained-{cell}"
    config = BY_NAME[cell].config(place.run_dir, num_workers=2, save_steps=SAVED_STEP)
    yield name, train_to_end(place.run_dir, config, place.checkpoints(name))


def lost(place: Place, cell: str) -> Iterator[tuple[str, Outcome]]:
    """The training undisturbed, and lost in step 3 and started again from the checkpoint of step 2."""
    config = BY_NAME[cell].config(place.run_dir, num_workers=2, lora=DROPOUT_LORA, max_steps=4, save_steps=2)
    name = f"undisturbed-{cell}"
    yield name, train_to_end(place.run_dir, config, place.checkpoints(name))
    name = f"resumed-{cell}"
    train_interrupted(place.run_dir, config, place.checkpoints(name), step=3)
    yield name, train_to_end(place.run_dir, config, place.checkpoints(name))


def continued(place: Place, cell: str) -> Iterator[tuple[str, Outcome]]:
    """Ends what one worker has started."""
    name = f"continued-{cell}"
    config = BY_NAME[cell].config(place.run_dir, num_workers=2)
    yield name, train_to_end(place.run_dir, config, place.checkpoints(name))


def accounts(place: Place) -> Iterator[tuple[str, Outcome]]:
    """The same global batches in two halves, and in two micro-batches of each half."""
    for accumulation in (1, 2):
        config = sweep_config(
            place.run_dir,
            lora=LORA,
            num_workers=2,
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=ACCOUNTED_STEPS,
        )
        name = f"accounts-{accumulation}"
        yield name, train_to_end(place.run_dir, config, place.checkpoints(name), rows=one_pair_a_prompt)


def segment(place: Place, kind: str, stage: str, name: str, until: str) -> Iterator[tuple[str, Outcome]]:
    """Two workers have an elastic training until they are lost."""
    train_segment(place.run_dir, kind, int(stage), place.output / name, until=int(until))
    yield from ()


def odd_batch(place: Place, num_workers: str) -> Iterator[tuple[str, Outcome]]:
    """Two workers share the batch of another number of them."""
    name = f"uneven-{num_workers}"
    config = uneven(place.run_dir, num_workers=int(num_workers))
    yield name, train_to_end(place.run_dir, config, place.checkpoints(name), rows=one_pair_a_prompt)


def memory(place: Place, kind: str, dtype: str, stage: str) -> Iterator[tuple[str, Outcome]]:
    """Leaves what this rank holds of a small model in training, and what it should."""
    found = held_and_expected(kind, dtype, int(stage))
    path = place.output / f"memory-{kind}-{dtype}-{stage}-{dist.get_rank()}.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    yield from ()


def crossings(place: Place) -> Iterator[tuple[str, Outcome]]:
    """Starts what one worker will end, and ends what one worker has started."""
    for two, one, kind in CROSSINGS:
        config = crossing_config(place.run_dir, kind, stage=two, num_workers=2)
        name = crossing_name(two, one, kind, first="two")
        train_interrupted(place.run_dir, config, place.checkpoints(name), step=8)
        name = crossing_name(two, one, kind, first="one")
        yield name, train_to_end(place.run_dir, config, place.checkpoints(name))


def crossing_config(run_dir: Path, kind: str, *, stage: int, num_workers: int) -> SweepConfig:
    return sweep_config(
        run_dir,
        lora=KINDS[kind],
        deepspeed={"stage": stage},
        num_workers=num_workers,
        per_device_train_batch_size=GLOBAL_BATCH_SIZE // num_workers,
        max_steps=12,
        save_steps=6,
    )


def crossing_name(two: int, one: int, kind: str, *, first: str) -> str:
    """Folder of the training that so many workers start and the other number ends."""
    return f"crossing-{two}-{one}-{kind}-{first}-first"


def finals(place: Place) -> Iterator[tuple[str, Outcome]]:
    """Saves the final weights of ZeRO 3, with the log-probabilities that the engine's own model gives."""
    for kind, lora in KINDS.items():
        name = f"final-{kind}"
        config = sweep_config(place.run_dir, lora=lora, deepspeed={"stage": 3}, max_steps=4)
        data = annotated_pairs(place.run_dir, point_work(place.run_dir, config))

        def look(engine: TrainEngine, name: str = name, data: AnnotatedPairs = data) -> None:
            engine.model.eval()
            with torch.no_grad():
                logps = engine.model(data.batch(range(8), engine.device).trees)
            save_final(engine, place.output / name / "final", {})
            if engine.rank == 0:
                save_file({"logps": logps}, place.output / name / "logps.safetensors")

        yield name, train_to_end(place.run_dir, config, place.checkpoints(name), look=look)


def odd_sizes(place: Place) -> Iterator[tuple[str, Outcome]]:
    """State of parameters whose sizes two ranks do not divide, put into a new engine and taken out again."""
    training = OptimisationConfig(per_device_train_batch_size=1)
    for stage in STAGES:
        settings = training.model_copy(update={"deepspeed": training.deepspeed.model_copy(update={"stage": stage})})
        engine = _odd_engine(settings)
        for _ in range(2):
            loss = engine.model(torch.full((1, 5), 1.0 + engine.rank)).square().sum()
            engine.micro_step(loss, learning_rate=1e-2)
        stored, moments = engine.parameters(), engine.moments()
        after = _odd_forward(engine)
        engine.close()
        # Every rank loads what rank 0 got, as from a checkpoint.
        if dist.get_rank() == 0:
            save_file(stored | moments, place.output / "odd.safetensors")
        dist.barrier()
        states = load_file(place.output / "odd.safetensors")
        dist.barrier()
        engine = _odd_engine(settings)
        engine.load(
            {name: value for name, value in states.items() if ".exp_avg" not in name},
            {name: value for name, value in states.items() if ".exp_avg" in name},
            num_steps=2,
        )
        again, moments_again = engine.parameters(), engine.moments()
        yield f"odd-{stage}-stored", Outcome(2, [after], [], stored, moments, torch.get_rng_state())
        yield f"odd-{stage}-loaded", Outcome(2, [_odd_forward(engine)], [], again, moments_again, torch.get_rng_state())
        engine.close()


def _odd_engine(settings: OptimisationConfig) -> DeepSpeedEngine:
    torch.manual_seed(0)
    return DeepSpeedEngine(torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)), settings)


def _odd_forward(engine: DeepSpeedEngine) -> float:
    with torch.no_grad():
        return float(engine.model(torch.ones(1, 5)).square().sum())


def lone_nan(place: Place) -> Iterator[tuple[str, Outcome]]:
    """A loss that is not finite on rank 1 alone must end both ranks alike."""
    config = sweep_config(
        place.run_dir, lora=LORA, deepspeed={"stage": 2}, num_workers=2, per_device_train_batch_size=4, save_steps=1
    )

    def broken(plain: MicroBatch) -> MicroBatch:
        calls: list[int] = []

        def micro_batch(model: torch.nn.Module, rows: list[int]) -> MicroBatchResult:
            calls.append(1)
            result = plain(model, rows)
            factor = float("nan") if dist.get_rank() == 1 and len(calls) == 3 else 1.0
            return MicroBatchResult(result.loss * factor, {**result.metrics, "loss": result.metrics["loss"] * factor})

        return micro_batch

    codes: list[Any] = [None, None]
    try:
        train_to_end(place.run_dir, config, place.checkpoints("lone-nan"), micro_batch=broken)
    except TrialError as error:
        dist.all_gather_object(codes, error.problems[0].what)
    (place.output / "lone-nan" / "errors.json").write_text(json.dumps(codes), encoding="utf-8")
    yield from ()


def together(place: Place) -> Iterator[tuple[str, Outcome]]:
    """Three points in every batch, each rank with its share of it; their final weights are where the ledger says."""
    config = sweep_config(place.run_dir, lora=LORA, num_workers=2, per_device_train_batch_size=4, max_steps=8)
    train_together(mixtures(place.output / "together", place.run_dir, config), hooks=[[], [], []])
    yield from ()


def store(folder: Path, outcome: Outcome) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"random_state": outcome.random_state}, folder / f"random-{dist.get_rank()}.safetensors")
    if dist.get_rank() == 0:
        save_file(outcome.parameters, folder / "parameters.safetensors")
        save_file(outcome.moments, folder / "moments.safetensors")
        numbers = {"steps": outcome.steps, "losses": outcome.losses, "grad_norms": outcome.grad_norms}
        numbers |= {"totals": asdict(outcome.totals)}
        (folder / "numbers.json").write_text(json.dumps(numbers), encoding="utf-8")


def restore(folder: Path, *, rank: int = 0) -> Outcome:
    """What `store` left of a case; the random state is that of the given rank."""
    numbers = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
    totals = StepTotals(**numbers.pop("totals"))
    return Outcome(
        **numbers,
        totals=totals,
        checkpoints=folder / "checkpoints",
        parameters=load_file(folder / "parameters.safetensors"),
        moments=load_file(folder / "moments.safetensors"),
        random_state=load_file(folder / f"random-{rank}.safetensors")["random_state"],
    )


def cases(place: Place) -> Iterator[tuple[str, Outcome]]:
    """All that belongs to no cell of the support matrix."""
    for case in (accounts, crossings, finals, odd_sizes, lone_nan, together):
        yield from case(place)


TASKS: dict[str, Callable[..., Iterator[tuple[str, Outcome]]]] = {
    "cases": cases,
    "trained": trained,
    "lost": lost,
    "continued": continued,
    "segment": segment,
    "odd_batch": odd_batch,
    "memory": memory,
}


def main(run_dir: str, output: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    place = Place(Path(run_dir), Path(output))
    with process_group():
        for line in sys.stdin:
            number, task, *arguments = json.loads(line)
            for name, outcome in TASKS[task](place, *arguments):
                store(place.output / name, outcome)
            (place.output / f"done-{number}-{dist.get_rank()}").touch()


if __name__ == "__main__":
    main(*sys.argv[1:])
