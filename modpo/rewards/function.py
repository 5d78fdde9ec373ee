"""Rewards from a Python function on texts: called batch by batch, never longer than it may take."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modpo.config.rewards import FunctionReward
from modpo.errors import InputError, Problem
from modpo.rewards.base import Completion, finite
from modpo.watch import rest

MAX_MESSAGE_CHARACTERS = 120

RewardFunction = Callable[[list[Any], list[str]], Any]
Call = tuple[Callable[[], Any], "Future[Any]"]


@dataclass(frozen=True)
class FunctionScorer:
    """`f(prompts, responses)` over batches of texts; `sign` is -1 for an objective to be minimised."""

    objective: str
    function: RewardFunction
    reward: FunctionReward
    sign: float

    def score(self, completions: Sequence[Completion], *, reference_logps: NDArray[np.float64]) -> NDArray[np.float64]:
        size = self.reward.batch_size
        batches = [completions[start : start + size] for start in range(0, len(completions), size)]
        rewards = [self._batch(number, batch) for number, batch in enumerate(batches)]
        return self.sign * np.concatenate([np.empty(0), *rewards])

    def _batch(self, number: int, batch: Sequence[Completion]) -> NDArray[np.float64]:
        prompts, responses = [c.prompt for c in batch], [c.response for c in batch]
        first = number * self.reward.batch_size
        where = f"of batch {number} (responses {first} to {first + len(batch) - 1})"
        # It has a limit of its own, and one call may take much longer than another.
        rest()
        call = _call_thread().start(lambda: self.function(prompts, responses))
        try:
            values = call.result(self.reward.timeout_seconds)
        except TimeoutError as error:
            if call.done():  # the function's own: it may wait for something itself
                raise self._raised(error, where) from error
            # The thread hangs with its call: the next one gets another.
            _call_thread.cache_clear()
            raise self._hangs(where) from None
        except Exception as error:
            raise self._raised(error, where) from error
        return finite(self.objective, values, len(batch), batch=where)

    def _raised(self, error: Exception, where: str) -> InputError:
        message = " ".join(str(error).split())[:MAX_MESSAGE_CHARACTERS]
        return InputError(
            Problem(
                code="MS-280",
                what=f"the reward function of {self.objective!r} raised an exception",
                where=f"{self.reward.function}, {self._line(error)}",
                got=f"{type(error).__name__}: {message}, in the call {where}",
                wanted="one finite number per response",
                remedy="mend the function; sampled responses may be empty, cut or nonsense",
            )
        )

    def _line(self, error: BaseException) -> str:
        """The innermost line of the function's own file; a library's, where the error has none of it."""
        frames = traceback.extract_tb(error.__traceback__)
        code = getattr(self.function, "__code__", None)
        own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
        frame = (own or frames)[-1]
        return f"line {frame.lineno} of {frame.filename}"

    def _hangs(self, where: str) -> InputError:
        return InputError(
            Problem(
                code="MS-281",
                what=f"the reward function of {self.objective!r} does not come back",
                where=self.reward.function,
                got=f"no answer within {self.reward.timeout_seconds:g} s in the call {where}",
                wanted="an answer within objectives.reward.timeout_seconds",
                remedy="look for what it waits for, raise timeout_seconds, or lower its batch_size",
            )
        )


class CallThread:
    """One daemon thread for all calls of a process: what a function keeps between calls may belong to its thread.

    A thread cannot be stopped, so one that hangs is left behind; being a daemon, it does not keep the process alive.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call] = SimpleQueue()
        threading.Thread(target=self._run, args=(_current_gpu(),), daemon=True, name="reward-function").start()

    def start(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((call, future))
        return future

    def _run(self, gpu: int | None) -> None:
        if gpu is not None:
            # Each thread has a current device of its own: without this the function's models would all go to GPU 0.
            torch.cuda.set_device(gpu)
        while True:
            call, future = self._calls.get()
            try:
                future.set_result(call())
            except SystemExit as error:
                # It would end this thread alone, and the caller would wait for nothing.
                future.set_exception(RuntimeError(f"sys.exit({error.code!r})").with_traceback(error.__traceback__))
            except Exception as error:  # noqa: BLE001  # the caller is told, whatever it is
                future.set_exception(error)
            # The queue's next wait would otherwise hold the texts of the last batch.
            del call, future


@lru_cache(maxsize=1)
def _call_thread() -> CallThread:
    return CallThread()


def _current_gpu() -> int | None:
    return torch.cuda.current_device() if torch.cuda.is_available() else None
