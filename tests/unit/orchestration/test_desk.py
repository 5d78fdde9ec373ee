"""The desk hands every piece of work to exactly one slot, and back to it when the slot loses its workers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from modpo.config.spec import StageInputs, Work
from modpo.config.tree import SweepConfig
from modpo.orchestration.desk import CLOSED, WAIT, Desk
from modpo.orchestration.failures import Failure
from modpo.orchestration.hangs import WorkerProcess

SHORT_S = 0.05
WORKERS = tuple(WorkerProcess(rank, "n", 100 + rank, 1, "") for rank in (0, 1))


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


@pytest.fixture(autouse=True)
def quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modpo.orchestration.desk.LEASE_POLL_S", SHORT_S)


@pytest.fixture
def work(two_objectives: SweepConfig) -> Any:
    def make(work_id: str) -> Work:
        inputs = StageInputs(prepared="prepared", start_model="model")
        return Work(work_id=work_id, kind="sft", run_dir="run", config=two_objectives, inputs=inputs, output="out")

    return make


@pytest.fixture
def two_objectives() -> SweepConfig:
    objectives = [{"name": name, "pairs": {"path": "pairs.jsonl"}} for name in ("helpful", "harmless")]
    return SweepConfig.model_validate({"name": "desk", "model": {"name_or_path": "m"}, "objectives": objectives})


async def leased_id(desk: Desk, slot: str) -> str:
    leased = await desk.lease(slot)
    return leased if isinstance(leased, str) else "+".join(work.work_id for work in leased)


def test_work_is_leased_once_and_in_order(work: Any) -> None:
    async def story() -> None:
        desk = Desk(max_slots=2, max_failures=0)
        for name in ("a", "b"):
            await desk.submit(work(name))
        assert [await leased_id(desk, slot) for slot in ("s1", "s2", "s3")] == ["a", "b", WAIT]

    run(story())


def test_workers_that_are_exchanged_for_more_of_them_are_no_loss(work: Any) -> None:
    """Without a single retry: twice resized, and then lost in earnest."""

    async def story() -> None:
        desk = Desk(max_slots=1, max_failures=0)
        await desk.submit(work("a"))
        assert await leased_id(desk, "s1") == "a"
        for _ in range(2):
            await desk.excuse("s1")
            assert await leased_id(desk, "s1") == "a"
        assert await leased_id(desk, "s1") == WAIT
        assert (await desk.events("a", 0, 0))[-1]["kind"] == "failed"

    run(story())


def test_of_two_slots_that_wait_each_gets_a_piece_of_its_own(work: Any) -> None:
    """A regression: both woke for the first piece, and the second took from an empty queue."""

    async def story() -> None:
        desk = Desk(max_slots=2, max_failures=0)
        waiting = [asyncio.create_task(leased_id(desk, slot)) for slot in ("s1", "s2")]
        await asyncio.sleep(SHORT_S / 5)
        await desk.submit(work("a"))
        await asyncio.sleep(SHORT_S / 5)
        await desk.submit(work("b"))
        assert sorted(await asyncio.gather(*waiting)) == ["a", "b"]

    run(story())


def test_submitting_again_is_the_same_piece(work: Any) -> None:
    async def story() -> None:
        desk = Desk(max_slots=2, max_failures=0)
        await desk.submit(work("a"))
        await desk.submit(work("a"))
        assert [await leased_id(desk, slot) for slot in ("s1", "s2")] == ["a", WAIT]

    run(story())


def test_a_slot_that_comes_back_gets_its_unfinished_piece(work: Any) -> None:
    async def story() -> None:
        desk = Desk(max_slots=1, max_failures=1)
        for name in ("a", "b"):
            await desk.submit(work(name))
        assert [await leased_id(desk, "s1") for _ in range(2)] == ["a", "a"]
        await desk.finish("a", {})
        assert await leased_id(desk, "s1") == "b"

    run(story())


def test_a_piece_that_keeps_losing_its_workers_fails_and_the_slot_goes_on(work: Any) -> None:
    async def story() -> None:
        desk = Desk(max_slots=1, max_failures=1)
        for name in ("a", "b"):
            await desk.submit(work(name))
        # Two starts are one loss, which is allowed; the third start would be the second.
        assert [await leased_id(desk, "s1") for _ in range(3)] == ["a", "a", "b"]
        (event,) = await desk.events("a", 0, SHORT_S)
        assert event["kind"] == "failed" and "lost its workers 2 times" in event["error"]

    run(story())


def test_a_lost_slot_gives_its_piece_back_to_the_front_of_the_queue(work: Any) -> None:
    async def story() -> None:
        desk = Desk(max_slots=2, max_failures=1)
        for name in ("a", "b"):
            await desk.submit(work(name))
        first = await desk.claim_slot()
        assert first is not None and await leased_id(desk, first) == "a"
        await desk.slot_lost(first, "node died")
        assert [await leased_id(desk, "s2"), await leased_id(desk, "s3")] == ["a", "b"]

    run(story())


def test_slots_are_opened_only_for_work_that_waits_and_never_too_many(work: Any) -> None:
    async def story() -> None:
        desk = Desk(max_slots=2, max_failures=0)
        assert await desk.claim_slot() is None
        for name in ("a", "b", "c"):
            await desk.submit(work(name))
        assert [await desk.claim_slot() for _ in range(3)] == ["slot-1", "slot-2", None]

    run(story())


def test_a_free_slot_is_used_before_another_is_opened(work: Any) -> None:
    async def story() -> None:
        desk = Desk(max_slots=2, max_failures=0)
        assert await desk.claim_slot(ahead=True) == "slot-1"
        await desk.submit(work("a"))
        assert await desk.claim_slot() is None

    run(story())


def test_events_arrive_in_order_and_from_where_the_reader_stands(work: Any) -> None:
    async def story() -> None:
        desk = Desk(max_slots=1, max_failures=0)
        await desk.submit(work("a"))
        await desk.lease("s1")
        for step in (1, 2):
            await desk.report("a", {"step": step})
        await desk.finish("a", {"rows": 3})
        assert [event.get("step") for event in await desk.events("a", 1, SHORT_S)] == [2, None]
        assert (await desk.events("a", 2, SHORT_S))[0] == {"kind": "finished", "result": {"rows": 3}}
        assert await desk.events("a", 3, SHORT_S) == []

    run(story())


def test_a_closed_desk_sends_slots_home_and_opens_none(work: Any) -> None:
    async def story() -> None:
        desk = Desk(max_slots=1, max_failures=0)
        await desk.submit(work("a"))
        await desk.close()
        assert [await leased_id(desk, "s1"), await desk.claim_slot()] == [CLOSED, None]

    run(story())


def test_slots_that_never_get_to_work_end_the_work_with_their_reason(work: Any) -> None:
    """Otherwise a worker that cannot even import would be started again for ever, in silence."""

    async def story() -> None:
        desk = Desk(max_slots=1, max_failures=1)
        await desk.submit(work("a"))
        for _ in range(2):
            name = await desk.claim_slot()
            assert name is not None
            await desk.slot_lost(name, "ModuleNotFoundError: modpo")
        (event,) = await desk.events("a", 0, SHORT_S)
        assert event["error"] == "no worker group could start: ModuleNotFoundError: modpo"

    run(story())


class TestLosses:
    """What is held against a piece whose workers go away, and what is not."""

    @pytest.fixture(autouse=True)
    def no_pause(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        asked: list[int] = []

        def pause_s(losses: int) -> float:
            asked.append(losses)
            return 0.0

        monkeypatch.setattr("modpo.orchestration.desk.pause_s", pause_s)
        return asked

    def test_only_losses_with_nothing_new_in_between_add_up(self, work: Any) -> None:
        """Lost nine times, once after each checkpoint, with one loss allowed: it goes on."""

        async def story() -> None:
            desk = Desk(max_slots=1, max_failures=1)
            await desk.submit(work("a"))
            await leased_id(desk, "s1")
            for _ in range(9):
                await desk.kept("s1")
                assert await leased_id(desk, "s1") == "a"
            assert await leased_id(desk, "s1") == WAIT, "the second in a row is one too many"

        run(story())

    def test_nodes_that_were_taken_back_never_count(self, work: Any) -> None:
        async def story() -> None:
            desk = Desk(max_slots=1, max_failures=0)
            await desk.submit(work("a"), work("b"))
            await leased_id(desk, "s1")
            for _ in range(20):
                await desk.workers_lost("s1", Failure("preemption", "the node was taken back"))
                assert await leased_id(desk, "s1") == "a+b"

        run(story())

    def test_a_slot_whose_node_was_taken_back_leaves_its_work_uncharged(self, work: Any) -> None:
        async def story() -> None:
            desk = Desk(max_slots=1, max_failures=0)
            await desk.submit(work("a"))
            for _ in range(20):
                name = await desk.claim_slot()
                assert name is not None and await leased_id(desk, name) == "a"
                await desk.workers_lost(name, Failure("preemption", "the node was taken back"))
                await desk.slot_lost(name, "its Train run ended")

        run(story())

    def test_what_ran_out_of_memory_is_not_tried_again(self, work: Any) -> None:
        async def story() -> None:
            desk = Desk(max_slots=1, max_failures=9)
            await desk.submit(work("a"))
            await leased_id(desk, "s1")
            await desk.workers_lost("s1", Failure("memory", "OutOfMemoryError: 15.2GB / 15.6GB", rank=1))
            assert await leased_id(desk, "s1") == WAIT
            (event,) = await desk.events("a", 0, SHORT_S)
            assert event["exit_status"] == 5
            assert (
                "a ran out of memory (MS-505; rank 1; OutOfMemoryError: 15.2GB / 15.6GB; batches of" in event["error"]
            )

        run(story())

    def test_points_that_ran_out_of_memory_together_are_tried_one_by_one(self, work: Any) -> None:
        async def story() -> None:
            desk = Desk(max_slots=2, max_failures=9)
            await desk.submit(work("a"), work("b"))
            await leased_id(desk, "s1")
            await desk.workers_lost("s1", Failure("memory", "too much"))
            assert [await leased_id(desk, slot) for slot in ("s1", "s2")] == ["a", "b"]

        run(story())

    def test_the_last_word_names_class_count_and_cause(self, work: Any, no_pause: list[int]) -> None:
        async def story() -> None:
            desk = Desk(max_slots=1, max_failures=3)
            await desk.submit(work("a"))
            for number in range(1, 5):
                await leased_id(desk, "s1")
                await desk.workers_lost("s1", Failure("infrastructure", f"OSError: fault {number}"))
            assert await leased_id(desk, "s1") == WAIT
            (event,) = await desk.events("a", 0, SHORT_S)
            assert event["error"] == (
                "infrastructure: lost its workers 4 times with nothing new on storage in between; "
                "last: OSError: fault 4"
            )

        run(story())
        assert no_pause[:4] == [0, 1, 2, 3], "each try waits for as many losses as there were"

    def test_the_loss_of_a_slot_counts_once(self, work: Any) -> None:
        """Ray tells of the workers first, and then the slot of its end."""

        async def story() -> None:
            desk = Desk(max_slots=1, max_failures=1)
            await desk.submit(work("a"))
            name = await desk.claim_slot()
            assert name is not None
            await leased_id(desk, name)
            await desk.workers_lost(name, Failure("infrastructure", "a node died"))
            await desk.slot_lost(name, "WorkerGroupError")
            assert await leased_id(desk, "s2") == "a"

        run(story())


class TestSilence:
    """Workers that say nothing, on a clock that is set by hand."""

    async def at_work(self, desk: Desk, work: Any) -> None:
        await desk.submit(work("a"))
        for worker in WORKERS:
            await desk.enrol("s1", worker, 600.0)
        await leased_id(desk, "s1")

    def test_all_ranks_are_named_once_and_the_loss_says_what_it_was(self, work: Any) -> None:
        """Ray then reports how they died: by our own hand, which explains nothing."""
        now = [0.0]

        async def story() -> None:
            desk = Desk(max_slots=1, max_failures=0, clock=lambda: now[0])
            await self.at_work(desk, work)
            await desk.beat("s1", 60.0)
            now[0] = 59.0
            assert await desk.hung("s1") == []
            now[0] = 61.0
            assert await desk.hung("s1") == list(WORKERS)
            assert await desk.hung("s1") == [], "they are being ended"
            await desk.workers_lost("s1", Failure("infrastructure", "ActorDiedError"))
            assert await leased_id(desk, "s1") == WAIT
            (event,) = await desk.events("a", 0, SHORT_S)
            assert event["error"].endswith("last: its workers were hung: nothing was heard of any for 61 s")

        run(story())

    def test_a_slot_without_work_has_nothing_to_say(self, work: Any) -> None:
        now = [0.0]

        async def story() -> None:
            desk = Desk(max_slots=1, max_failures=0, clock=lambda: now[0])
            await self.at_work(desk, work)
            await desk.finish("a", {})
            now[0] = 1e6
            assert await desk.hung("s1") == []

        run(story())


def test_an_elastic_slot_that_grew_or_shrank_has_lost_nothing(work: Any) -> None:
    """Ray begins anew with another number of workers, and names no error."""

    async def story() -> None:
        desk = Desk(max_slots=1, max_failures=0)
        config = work("a").config
        resources = config.resources.model_copy(update={"num_workers": 2, "min_workers": 1})
        elastic = work("a").model_copy(update={"config": config.model_copy(update={"resources": resources})})
        await desk.submit(elastic)
        assert [await leased_id(desk, "s1") for _ in range(5)] == ["a"] * 5
        await desk.workers_lost("s1", Failure("infrastructure", "its node died"))
        assert await leased_id(desk, "s1") == WAIT, "an error counts as ever"

    run(story())


class TestDeviceSeconds:
    """On a clock that is set by hand, with two workers in every slot."""

    @pytest.fixture
    def wide(self, work: Any, two_objectives: SweepConfig) -> Any:
        resources = two_objectives.resources.model_copy(update={"num_workers": 2})
        config = two_objectives.model_copy(update={"resources": resources})
        return lambda work_id: work(work_id).model_copy(update={"config": config})

    async def spent(self, desk: Desk) -> list[float]:
        return [piece["device_seconds"] for piece in await desk.snapshot()]

    def test_waiting_costs_nothing_and_work_until_its_end(self, wide: Any) -> None:
        now = [0.0]

        async def story() -> None:
            desk = Desk(max_slots=1, max_failures=0, clock=lambda: now[0])
            for name in ("a", "b"):
                await desk.submit(wide(name))
            now[0] = 5
            assert await leased_id(desk, "s1") == "a"
            now[0] = 8
            assert await self.spent(desk) == [6.0, 0.0], "a piece in work has cost something already"
            await desk.finish("a", {})
            now[0] = 20
            assert await leased_id(desk, "s1") == "b"
            now[0] = 21
            await desk.fail("b", "broken", 5)
            await desk.fail("b", "the second rank says so too", 5)
            now[0] = 99
            assert await self.spent(desk) == [6.0, 2.0]

        run(story())

    def test_lost_attempts_are_paid_for_too(self, wide: Any) -> None:
        now = [0.0]

        async def story() -> None:
            desk = Desk(max_slots=2, max_failures=2, clock=lambda: now[0])
            await desk.submit(wide("a"))
            first = await desk.claim_slot()
            assert first is not None and await leased_id(desk, first) == "a"
            now[0] = 3
            assert await leased_id(desk, first) == "a", "its workers were lost and have come back"
            now[0] = 4
            await desk.slot_lost(first, "node died")
            now[0] = 10
            assert await leased_id(desk, "s2") == "a"
            now[0] = 11
            await desk.finish("a", {})
            assert await self.spent(desk) == [(4 + 1) * 2.0]

        run(story())


class TestTogether:
    """Points that one slot gets together are pieces of their own all the same."""

    def test_they_are_leased_together_once_and_each_is_followed_by_itself(self, work: Any) -> None:
        async def story() -> None:
            desk = Desk(max_slots=2, max_failures=0)
            group = [work(name) for name in "abc"]
            await desk.submit(*group)
            await desk.submit(*group)
            await desk.submit(work("d"))
            assert [await leased_id(desk, slot) for slot in ("s1", "s2", "s3")] == ["a+b+c", "d", WAIT]
            await desk.report("b", {"step": 1})
            await desk.finish("a", {})
            assert [event["kind"] for event in await desk.events("a", 0, SHORT_S)] == ["finished"]
            assert [event["kind"] for event in await desk.events("b", 0, SHORT_S)] == ["progress"]

        run(story())

    def test_a_group_keeps_one_slot_busy(self, work: Any) -> None:
        async def story() -> None:
            desk = Desk(max_slots=2, max_failures=0)
            await desk.submit(work("a"), work("b"))
            first = await desk.claim_slot()
            assert first is not None and await desk.claim_slot() is None
            await leased_id(desk, first)
            await desk.submit(work("c"))
            assert await desk.claim_slot() is not None

        run(story())

    def test_a_slot_that_lost_its_workers_gets_what_is_not_over(self, work: Any) -> None:
        async def story() -> None:
            desk = Desk(max_slots=1, max_failures=1)
            await desk.submit(*(work(name) for name in "abc"))
            await leased_id(desk, "s1")
            await desk.finish("a", {})
            assert await leased_id(desk, "s1") == "b+c"
            # Another loss, and each has its own two attempts; `c` waits behind `b`, whose third there is not.
            assert [await leased_id(desk, "s1") for _ in range(3)] == ["b", "b", "c"]
            assert [piece["state"] for piece in await desk.snapshot()] == ["finished", "failed", "leased"]

        run(story())

    def test_a_slot_that_is_gone_leaves_them_to_another_together(self, work: Any) -> None:
        async def story() -> None:
            desk = Desk(max_slots=1, max_failures=1)
            name = await desk.claim_slot(True)
            assert name is not None
            await desk.submit(work("a"), work("b"))
            await leased_id(desk, name)
            await desk.slot_lost(name, "gone")
            assert await leased_id(desk, "another") == "a+b"

        run(story())

    def test_after_two_losses_each_goes_by_itself(self, work: Any) -> None:
        """Memory that holds one may not hold all: they must not all fail of it."""

        async def story() -> None:
            desk = Desk(max_slots=2, max_failures=5)
            await desk.submit(*(work(name) for name in "abc"))
            assert [await leased_id(desk, "s1") for _ in range(3)] == ["a+b+c", "a+b+c", "a"]
            assert [await leased_id(desk, slot) for slot in ("s2", "s3")] == ["b", "c"]

        run(story())

    def test_without_retries_they_are_tried_alone_all_the_same(self, work: Any) -> None:
        """Too many for the memory together: no reason for any of them to fail."""

        async def story() -> None:
            desk = Desk(max_slots=2, max_failures=0)
            await desk.submit(work("a"), work("b"))
            assert [await leased_id(desk, "s1") for _ in range(2)] == ["a+b", "a"]
            assert await leased_id(desk, "s2") == "b"
            assert await leased_id(desk, "s2") == WAIT, "alone, the first loss is the last"
            assert [piece["state"] for piece in await desk.snapshot()] == ["leased", "failed"]

        run(story())

    @pytest.mark.parametrize("max_failures", [0, 3])
    def test_workers_that_leave_with_an_error_are_no_loss_of_the_others(self, work: Any, max_failures: int) -> None:
        async def story() -> None:
            desk = Desk(max_slots=1, max_failures=max_failures)
            await desk.submit(work("a"), work("b"), work("c"))
            await leased_id(desk, "s1")
            await desk.fail("a", "no such column", 2)
            assert await leased_id(desk, "s1") == "b+c"
            assert [piece["losses"] for piece in await desk.snapshot()] == [0, 0, 0]

        run(story())

    def test_an_error_of_a_group_is_no_loss_of_its_first(self, work: Any) -> None:
        """Several workers part it, and begin anew before the first is tried alone."""

        async def story() -> None:
            desk = Desk(max_slots=1, max_failures=0)
            await desk.submit(work("a"), work("b"))
            await leased_id(desk, "s1")
            await desk.part("s1")
            assert await leased_id(desk, "s1") == "a"
            assert await leased_id(desk, "s1") == "b", "a loss of its own"
            assert [piece["state"] for piece in await desk.snapshot()] == ["failed", "leased"]

        run(story())

    def test_so_they_do_when_the_slot_is_gone_too(self, work: Any) -> None:
        async def story() -> None:
            desk = Desk(max_slots=2, max_failures=5)
            slots = [await desk.claim_slot(True), await desk.claim_slot(True)]
            await desk.submit(*(work(name) for name in "abc"))
            for slot in slots:
                assert slot is not None
                assert await leased_id(desk, slot) == "a+b+c"
                await desk.slot_lost(slot, "gone")
            assert [await leased_id(desk, slot) for slot in ("s1", "s2", "s3")] == ["a", "b", "c"]

        run(story())

    def test_parted_the_slot_keeps_the_first_and_others_come_before_all_that_wait(self, work: Any) -> None:
        async def story() -> None:
            desk = Desk(max_slots=3, max_failures=0)
            await desk.submit(*(work(name) for name in "abc"))
            await desk.submit(work("d"))
            await leased_id(desk, "s1")
            await desk.part("s1")
            assert [await leased_id(desk, slot) for slot in ("s2", "s3", "s4")] == ["b", "c", "d"]
            # Being parted is no failure: `b` has lost nothing yet.
            assert [piece["losses"] for piece in await desk.snapshot()] == [0, 0, 0, 0]

        run(story())


def test_work_of_a_run_that_another_driver_has_fails_wherever_it_stands_and_all_slots_go_home(work: Any) -> None:
    """What is finished stays so; nobody waits for work that no slot will ever take."""

    async def story() -> None:
        desk = Desk(max_slots=2, max_failures=3)
        for name in ("a", "b", "c"):
            await desk.submit(work(name))
        assert [await leased_id(desk, slot) for slot in ("s1", "s2")] == ["a", "b"]
        await desk.finish("a", {})
        await desk.abandon("taken over", 3)
        await desk.submit(work("d"))
        assert [await leased_id(desk, slot) for slot in ("s1", "s2")] == [CLOSED, CLOSED]
        assert await desk.claim_slot() is None
        ends = {name: (await desk.events(name, 0, SHORT_S))[-1] for name in ("a", "b", "c", "d")}
        assert ends.pop("a")["kind"] == "finished"
        assert [(end["kind"], end["error"], end["exit_status"]) for end in ends.values()] == [
            ("failed", "taken over", 3)
        ] * 3

    run(story())
