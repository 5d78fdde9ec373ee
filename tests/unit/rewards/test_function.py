"""Reward functions of users: whole batches, a time limit, and every failure named with its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from modpo.config.rewards import FunctionReward
from modpo.errors import InputError, Problem
from modpo.rewards.base import Completion
from modpo.rewards.function import FunctionScorer

NO_LOGPS = np.zeros(0)
COMPLETIONS = [Completion(f"prompt {n}", " ".join(["word"] * n), (n,), (2,)) for n in range(10)]


def num_words(prompts: list[Any], responses: list[str]) -> list[int]:
    return [len(response.split()) for response in responses]


def scorer(function: Callable[..., Any], *, sign: float = 1.0, **reward: Any) -> FunctionScorer:
    settings = FunctionReward(type="function", function="my_rewards:score", **reward)
    return FunctionScorer("brief", function, settings, sign)


def score(function: Callable[..., Any], **arguments: Any) -> list[float]:
    return scorer(function, **arguments).score(COMPLETIONS, reference_logps=NO_LOGPS).tolist()


def refused(function: Callable[..., Any], **arguments: Any) -> Problem:
    with pytest.raises(InputError) as caught:
        score(function, **arguments)
    (problem,) = caught.value.problems
    return problem


class TestBatches:
    def test_texts_come_in_batches_in_order(self) -> None:
        calls: list[tuple[list[Any], list[str]]] = []

        def recorded(prompts: list[Any], responses: list[str]) -> list[int]:
            calls.append((prompts, responses))
            return num_words(prompts, responses)

        assert score(recorded, batch_size=4) == list(range(10))
        assert [len(prompts) for prompts, _ in calls] == [4, 4, 2]
        assert [text for _, responses in calls for text in responses] == [c.response for c in COMPLETIONS]

    @pytest.mark.parametrize("batch_size", [1, 3, 10, 256])
    def test_batch_size_does_not_change_the_rewards(self, batch_size: int) -> None:
        assert score(num_words, batch_size=batch_size) == list(range(10))

    def test_minimize_negates_once(self) -> None:
        assert score(num_words, sign=-1.0) == [-n for n in range(10)]

    def test_no_completions_need_no_call(self) -> None:
        rewards = scorer(lambda prompts, responses: 1 / 0).score([], reference_logps=NO_LOGPS)
        assert rewards.tolist() == []
        assert rewards.dtype == np.float64

    @pytest.mark.parametrize(
        "wrap",
        [
            list,
            tuple,
            np.array,
            lambda v: np.array(v, dtype=np.float32),
            torch.tensor,
            lambda v: torch.tensor(v, dtype=torch.bfloat16),
            lambda v: torch.tensor(v, dtype=torch.float32, requires_grad=True),
            lambda v: [torch.tensor(float(x)) for x in v],
        ],
    )
    def test_any_vector_of_numbers_will_do(self, wrap: Callable[[list[int]], Any]) -> None:
        rewards = scorer(lambda prompts, responses: wrap(num_words(prompts, responses)))
        assert rewards.score(COMPLETIONS, reference_logps=NO_LOGPS).tolist() == list(range(10))

    def test_all_calls_come_from_one_thread(self) -> None:
        """What a function keeps between its calls (a database, an event loop) may belong to the thread that made it."""
        threads = set()

        def recorded(prompts: list[Any], responses: list[str]) -> list[int]:
            threads.add(threading.get_ident())
            return num_words(prompts, responses)

        score(recorded, batch_size=2)
        score(recorded, batch_size=5)
        assert len(threads) == 1


class TestFailures:
    def test_wrong_length_names_the_batch(self) -> None:
        problem = refused(lambda prompts, responses: num_words(prompts, responses)[:3], batch_size=4)
        assert (problem.code, problem.where) == ("MS-231", "objectives (brief).reward")
        assert problem.got == "shape (3,) of batch 0 (responses 0 to 3)"
        assert problem.wanted == "4 finite numbers"

    def test_nan_names_the_response(self) -> None:
        def sometimes(prompts: list[Any], responses: list[str]) -> list[float]:
            return [float("nan") if prompt == "prompt 6" else 1.0 for prompt in prompts]

        assert refused(sometimes, batch_size=4).got == "nan for response 2 of batch 1 (responses 4 to 7)"

    @pytest.mark.parametrize("value", ["1.5", {"score": 1}, 1j])
    def test_what_is_no_number_is_refused(self, value: Any) -> None:
        problem = refused(lambda prompts, responses: [value] * len(prompts))
        assert problem.code == "MS-231"
        assert problem.got == "values that are no plain numbers, in a list"

    def test_an_exception_is_named_with_its_line(self) -> None:
        def broken(prompts: list[Any], responses: list[str]) -> list[float]:
            return [float(response) for response in responses]

        problem = refused(broken, batch_size=4)
        line = broken.__code__.co_firstlineno + 1
        assert (problem.code, problem.where) == ("MS-280", f"my_rewards:score, line {line} of {__file__}")
        assert problem.got.startswith("ValueError: could not convert string to float")
        assert problem.got.endswith("in the call of batch 0 (responses 0 to 3)")

    def test_line_is_the_functions_own_where_a_library_raises(self) -> None:
        def broken(prompts: list[Any], responses: list[str]) -> Any:
            return np.linalg.inv(np.zeros((2, 2)))

        problem = refused(broken)
        assert problem.where == f"my_rewards:score, line {broken.__code__.co_firstlineno + 1} of {__file__}"
        assert problem.got.startswith("LinAlgError: Singular matrix")

    def test_leaving_the_process_is_an_error_of_the_call(self) -> None:
        def leaves(prompts: list[Any], responses: list[str]) -> None:
            raise SystemExit(3)

        assert refused(leaves).got.startswith("RuntimeError: sys.exit(3)")

    def test_a_timeout_of_its_own_is_no_timeout_of_the_call(self) -> None:
        def times_out(prompts: list[Any], responses: list[str]) -> None:
            raise TimeoutError("the judge does not answer")

        problem = refused(times_out)
        assert problem.code == "MS-280"
        assert problem.got.startswith("TimeoutError: the judge does not answer")


class TestTimeout:
    @pytest.fixture
    def stuck(self) -> Any:
        """Released after the test, so that no thread outlives it."""
        release = threading.Event()

        def hang(prompts: list[Any], responses: list[str]) -> list[int]:
            if "prompt 4" in prompts:
                release.wait(5)
            return num_words(prompts, responses)

        yield hang
        release.set()

    def test_a_call_that_hangs_is_given_up(self, stuck: Callable[..., Any]) -> None:
        started = time.perf_counter()
        problem = refused(stuck, batch_size=4, timeout_seconds=0.2)
        assert time.perf_counter() - started < 2
        assert (problem.code, problem.where) == ("MS-281", "my_rewards:score")
        assert problem.got == "no answer within 0.2 s in the call of batch 1 (responses 4 to 7)"

    def test_the_next_call_does_not_wait_for_it(self, stuck: Callable[..., Any]) -> None:
        refused(stuck, timeout_seconds=0.2)
        started = time.perf_counter()
        assert score(num_words, timeout_seconds=2.0) == list(range(10))
        assert time.perf_counter() - started < 1

    def test_the_limit_is_each_calls_own(self) -> None:
        def slow(prompts: list[Any], responses: list[str]) -> list[int]:
            time.sleep(0.05)
            return num_words(prompts, responses)

        assert score(slow, batch_size=1, timeout_seconds=0.3) == list(range(10))
