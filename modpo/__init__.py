"""Train a whole Pareto set of language models by Multi-Objective DPO on a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modpo.api import Run, load_config, load_run, plan, run

__all__ = ["Run", "load_config", "load_run", "plan", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads the API on first use, so that `import modpo` stays quick."""
    if name in __all__:
        from modpo import api

        return getattr(api, name)
    raise AttributeError(f"module 'modpo' has no attribute {name!r}")
