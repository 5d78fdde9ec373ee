"""The image of the cluster files: it cannot be built here, but what its text promises can be read."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from modpo.orchestration.cluster import STARTING_PROCESSES
from tests.unit.clusters.image import assignments, environment, instructions

SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
CLUSTER_UID = "1000"


@pytest.fixture
def steps(repository: Path) -> list[tuple[str, str]]:
    found = instructions(repository)
    assert found[0][0] == "ARG"
    assert {word for word, _ in found} == {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"}
    return found


def final_stage(steps: list[tuple[str, str]]) -> list[tuple[str, str]]:
    last = max(index for index, (word, _) in enumerate(steps) if word == "FROM")
    return steps[last:]


def test_every_base_is_slim_and_named_by_its_digest(steps: list[tuple[str, str]], repository: Path) -> None:
    arguments = assignments(repository, "ARG")
    bases = [
        re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], rest.split()[0])
        for word, rest in steps
        if word == "FROM"
    ]
    assert len(bases) == 2
    assert len(set(bases)) == 1, "wheels are built for the Python that installs them"
    assert re.fullmatch(r"python:3\.\d+-slim-\w+@sha256:[0-9a-f]{64}", bases[0])


def test_containers_do_not_run_as_root(steps: list[tuple[str, str]]) -> None:
    words = [word for word, _ in final_stage(steps)]
    users = [rest for word, rest in final_stage(steps) if word == "USER"]
    # By number: Kubernetes cannot tell from a name that it is not root's.
    assert users == [f"{CLUSTER_UID}:{CLUSTER_UID}"]
    assert "RUN" not in words[words.index("USER") :]
    assert any(f"--uid {CLUSTER_UID} " in rest for word, rest in steps if word == "RUN")


def test_nothing_is_fetched_but_packages(steps: list[tuple[str, str]]) -> None:
    assert all(word != "ADD" for word, _ in steps)
    assert not [rest for _, rest in steps if re.search(r"https?://|git\+|\bcurl |\bwget -", rest)]
    installed = [rest for word, rest in final_stage(steps) if word == "RUN" and "pip install" in rest]
    assert installed
    assert all("--no-index" in rest for rest in installed), "only what was gathered in the first stage"


def test_no_secret_can_stay_in_a_layer(repository: Path) -> None:
    names = assignments(repository, "ENV").keys() | assignments(repository, "ARG").keys()
    assert len(names) > 10
    assert not [name for name in names if SECRET_NAME.search(name)]


def test_only_the_code_gets_into_the_image(steps: list[tuple[str, str]], repository: Path) -> None:
    copied = {source for word, rest in steps if word == "COPY" for source in rest.split()[:-1]}
    ignored = [line for line in (repository / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert all((repository / source).exists() for source in copied)
    # Filled in, they name accounts, groups and networks.
    assert "ray_jobs/clusters" in ignored


def test_the_image_has_the_extras_that_its_nodes_need(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = set(assignments(repository, "ARG")["EXTRAS"].split(","))
    assert {"cluster", "gcp"} <= extras <= project["optional-dependencies"].keys()
    (version,) = re.findall(r"python:(\d\.\d+)-slim", assignments(repository, "ARG")["BUILD_BASE"])
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]


def test_what_ray_and_kubernetes_call_in_a_container_is_there(steps: list[tuple[str, str]]) -> None:
    (packages,) = [rest for word, rest in final_stage(steps) if word == "RUN" and "apt-get install" in rest]
    assert {"openssh-client", "rsync", "wget"} <= set(packages.split())


def test_ray_finds_the_home_folder_that_it_mounts_the_token_into(
    steps: list[tuple[str, str]], repository: Path
) -> None:
    # Ray's launcher reads HOME from the image, and takes root's folder where the image does not say.
    home = environment(repository)["HOME"]
    assert any(word == "RUN" and f"--mode=700 {home}/.ray" in rest for word, rest in steps)


def test_containers_see_their_gpus_and_share_no_build_folder(repository: Path) -> None:
    variables = environment(repository)
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert variables["TORCH_EXTENSIONS_DIR"].startswith(variables["HOME"]), "not on storage that containers share"


def test_modules_are_compiled_when_the_image_is_built(steps: list[tuple[str, str]], repository: Path) -> None:
    assert "PYTHONDONTWRITEBYTECODE" not in environment(repository)
    commands = " ".join(rest for word, rest in final_stage(steps) if word == "RUN")
    assert "pip install --no-cache-dir --compile" in commands
    assert "compileall -q /opt/modpo" in commands


def test_ray_jobs_can_be_imported_from_anywhere_in_the_image(steps: list[tuple[str, str]], repository: Path) -> None:
    assert ("COPY", "ray_jobs /opt/modpo/ray_jobs") in steps
    assert environment(repository)["PYTHONPATH"] == "/opt/modpo"


def test_named_operations_are_ones_that_deepspeed_can_build(repository: Path) -> None:
    named = set(re.findall(r"DS_BUILD_[A-Z_]+", (repository / "Dockerfile").read_text()))
    # Looked for without importing it, which takes seconds.
    deepspeed = find_spec("deepspeed")
    assert deepspeed is not None
    sources = (Path(str(deepspeed.origin)).parent / "ops" / "op_builder").rglob("*.py")
    known = {name for path in sources for name in re.findall(r"BUILD_VAR = ['\"](\w+)", path.read_text())}
    assert len(known) > 10
    assert named - known == {"DS_BUILD_OPS"}, "the switch of all of them"


def test_nodes_without_processors_to_give_away_start_drivers_side_by_side(repository: Path) -> None:
    assert environment(repository)["RAY_worker_maximum_startup_concurrency"] == str(STARTING_PROCESSES)
