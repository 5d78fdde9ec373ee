"""Ray writes the runtime_env of every actor into its logs: Tune puts no secret into those of our trials."""

from __future__ import annotations

import pytest
from ray.tune.execution import class_cache

from modpo.masking import names_secret
from modpo.orchestration.sweep import _keep_secrets_out_of_runtime_environments


def test_no_key_of_a_cloud_is_sent_to_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary run found AWS's keys in Ray's log."""
    before = set(class_cache.ENV_VARS_TO_PROPAGATE)
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", set(before))
    assert "AWS_SECRET_ACCESS_KEY" in before
    _keep_secrets_out_of_runtime_environments()
    left = class_cache.ENV_VARS_TO_PROPAGATE
    assert not [name for name in left if names_secret(name)]
    assert {name for name in before - left} == {name for name in before if name.startswith("AWS_")}
