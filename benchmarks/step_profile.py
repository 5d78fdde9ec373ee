"""Where one of our steps spends its time: torch's profiler, its operations in a few groups."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.variants import Step

PRODUCTS = "matrix products"
ATTENTION = "attention"
ELEMENTWISE = "elementwise and reductions"
MOVES = "copies, gathers, concatenation"
OTHER = "other"
SHOWN = 0.001
GROUPS = (PRODUCTS, ATTENTION, ELEMENTWISE, MOVES, OTHER)

_NAMES = {
    PRODUCTS: ("mm addmm bmm baddbmm addmm_",),
    ELEMENTWISE: (
        "mul mul_ add add_ sub sub_ neg div div_ exp exp_ log pow rsqrt mean sum amax aminmax cos sin",
        "silu silu_backward sigmoid log_sigmoid_forward log_sigmoid_backward threshold_backward",
    ),
    MOVES: (
        "copy_ cat clone gather embedding fill_ zero_ split split_with_sizes constant_pad_nd scatter_add_",
        "index index_add index_add_ index_put_ _index_put_impl_ index_select select_backward slice_backward",
    ),
}
_GROUP_OF = {name: group for group, lines in _NAMES.items() for line in lines for name in line.split()}


def profiled(step: Step, *, repeats: int) -> list[dict[str, Any]]:
    """Share of the time in each group of operations, with the costliest of them by name.

    Python between the operations is under `other`, as far as the profiler sees it.
    """
    step.clear()
    step.run()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(repeats):
            step.clear()
            step.run()
    microseconds = {event.key: event.self_cpu_time_total for event in recorded.key_averages()}
    total = sum(microseconds.values())
    rows = []
    for group in GROUPS:
        members = Counter({name: spent for name, spent in microseconds.items() if _group(name) == group})
        spent = sum(members.values())
        named = ((name.removeprefix("aten::"), part / total) for name, part in members.most_common(4))
        costliest = ", ".join(f"{name} {share:.1%}" for name, share in named if share >= SHOWN)
        rows.append({"group": group, "share": f"{spent / total:.1%}", "costliest": costliest})
    return rows


def _group(operation: str) -> str:
    name = operation.removeprefix("aten::")
    if "attention" in name or "scaled_dot_product" in name:
        return ATTENTION
    return _GROUP_OF.get(name, OTHER)
