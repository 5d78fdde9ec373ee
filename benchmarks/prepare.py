"""Time and memory of reading, validating, tokenising and writing many rows: `python -m benchmarks.prepare`.

Rows are made in a temporary folder: two objectives, prompts that are all different, texts of about 300 characters. Each
measurement is a process of its own; its memory is the peak of the proportional set size (PSS) of it and its workers.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from benchmarks.measuring import RESULTS, commit, machine, measure, print_table, write_results
from modpo.config import load_config
from modpo.data.demo.language import prompts, sample_answer
from modpo.data.loading import load_data
from modpo.data.prepare import write_prepared

OBJECTIVES = ("vivid", "brief")
TEXT_CHARACTERS = 300
NUM_TEXTS = 5000
VALIDATED_ROWS = 100_000
QUICK_ROWS = 10_000


def main() -> None:
    """Prints one table a kind of measurement, and writes the results."""
    arguments = _arguments()
    if arguments.prepare is not None:
        _prepare(arguments.prepare)
        return
    rows, repeats = (QUICK_ROWS, 1) if arguments.quick else (arguments.rows, arguments.repeats)
    validated_rows = QUICK_ROWS if arguments.quick else VALIDATED_ROWS
    results: dict[str, Any] = {"machine": machine(), "commit": commit(), "repeats": repeats}
    with tempfile.TemporaryDirectory(prefix="modpo-benchmark-") as folder:
        world = Path(folder)
        texts = write_tokenizer(world / "model")
        validated = [_validated(world, texts, validated_rows) for _ in range(repeats)]
        prepared = [_prepared(world, texts, size) for size in (rows // 10, rows) for _ in range(repeats)]
    results |= {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "validate": medians(validated),
        "prepare": medians(prepared),
    }
    write_results(arguments.results, results)
    for kind in ("validate", "prepare"):
        print_table(kind, results[kind])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="pairs of the larger size; the other is a tenth")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each size; medians are reported")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows, once")
    parser.add_argument("--results", type=Path, default=RESULTS / "prepare.json", help="where the figures are written")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_tokenizer(folder: Path) -> list[str]:
    """A byte-level BPE tokenizer with a model config in `folder`, and the texts that it was trained on."""
    texts = list(_texts(random.Random(0)))
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(folder)
    LlamaConfig(vocab_size=backend.get_vocab_size()).save_pretrained(folder)
    return texts


def _texts(generator: random.Random) -> Iterator[str]:
    """Texts of the demo's sentences."""
    for _ in range(NUM_TEXTS):
        prompt, text = generator.choice(prompts()), ""
        while len(text) < TEXT_CHARACTERS:
            text += f"{sample_answer(prompt, generator)} "
        yield text.strip()


def write_sweep(world: Path, texts: list[str], rows: int) -> Path:
    """A sweep file over new rows; half of them for each objective."""
    folder = world / f"rows-{rows}"
    folder.mkdir(exist_ok=True)
    for name in OBJECTIVES:
        generator = random.Random(name)
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for number in range(rows // len(OBJECTIVES)):
                prompt, chosen, rejected = generator.sample(texts, 3)
                row = {"prompt": f"{number} {prompt}", "chosen": chosen, "rejected": rejected}
                file.write(json.dumps(row) + "\n")
    sweep = {
        "name": "benchmark",
        "storage_path": str(world / "runs"),
        "model": {"name_or_path": str(world / "model")},
        "objectives": [{"name": name, "pairs": {"path": str(folder / f"{name}.jsonl")}} for name in OBJECTIVES],
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep), encoding="utf-8")
    return path


def _validated(world: Path, texts: list[str], rows: int) -> dict[str, Any]:
    """`modpo validate` from its start to its end."""
    sweep = write_sweep(world, texts, rows)
    measured = measure([sys.executable, "-m", "modpo", "validate", str(sweep)])
    return {"rows": rows, "seconds": measured["seconds"], **_common(measured, rows)}


def _prepared(world: Path, texts: list[str], rows: int) -> dict[str, Any]:
    """`load_data` and `write_prepared` in a new process."""
    sweep = write_sweep(world, texts, rows)
    measured = measure([sys.executable, "-m", "benchmarks.prepare", "--prepare", str(sweep)])
    timings = json.loads(measured["output"].splitlines()[-1])
    seconds = timings["read_seconds"] + timings["write_seconds"]
    return {"rows": rows, **timings, **_common({**measured, "seconds": seconds}, rows)}


def _common(measured: dict[str, Any], rows: int) -> dict[str, Any]:
    return {
        "rows_per_second": round(rows / measured["seconds"]),
        "cpu_seconds": measured["cpu_seconds"],
        "peak_mb": measured["peak_mb"],
    }


def _prepare(sweep: Path) -> None:
    """What the measured process does: prints its seconds as JSON."""
    config = load_config(sweep)
    started = time.perf_counter()
    data = load_data(config)
    read = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=sweep.parent) as folder:
        write_prepared(Path(folder) / "prepared", config, data, model_path=config.model.name_or_path)
        written = time.perf_counter()
    print(json.dumps({"read_seconds": round(read - started, 2), "write_seconds": round(written - read, 2)}))


def medians(measurements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a size, each figure the median of its repeats."""
    sizes = sorted({measurement["rows"] for measurement in measurements})
    of_size = [[m for m in measurements if m["rows"] == rows] for rows in sizes]
    return [{key: statistics.median(m[key] for m in group) for key in group[0]} for group in of_size]


if __name__ == "__main__":
    main()
