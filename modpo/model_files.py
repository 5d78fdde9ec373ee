"""Files of models that cannot be loaded: broken ones, and ones that bring Python code, of which modpo runs none.

Asked nothing, transformers would ask the terminal whether to run such code. Every call that loads says no itself.
"""

from __future__ import annotations

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from modpo.errors import Problem

# What transformers raises over files that hold something else than it expects.
UNLOADABLE = (OSError, ValueError, TypeError, LookupError, StrictDataclassError, SafetensorError)


def loading_problem(problem: Problem, error: Exception, name: str) -> Problem:
    """`problem`, or that the model `name` brings code of its own where that is why it cannot be loaded."""
    if "trust_remote_code" not in str(error):
        return problem
    return Problem(
        code="MS-139",
        what="the model brings Python code of its own, which modpo does not run",
        where=problem.where,
        got=name,
        wanted="a model of a class that transformers itself has",
        remedy="take one without `auto_map` in its files, or write its weights again under such a class",
    )
