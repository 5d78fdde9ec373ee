"""What a job takes along: no secret, all of the code, none of the data, and the sweep file wherever it lies."""

from __future__ import annotations

import shlex
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from modpo.errors import InputError
from modpo.orchestration.job_environment import JobRequest, job_settings, named_variables, pack, packed_job
from tests.sweeps import raw_sweep


def codes(error: pytest.ExceptionInfo[InputError]) -> list[str]:
    return [problem.code for problem in error.value.problems]


class TestVariables:
    def test_plain_variables_travel_with_their_values(self) -> None:
        shell = {"NCCL_DEBUG": "INFO", "TOKENIZERS_PARALLELISM": "false", "OTHER": "stays"}
        names = ["NCCL_DEBUG", "TOKENIZERS_PARALLELISM"]
        assert named_variables(names, shell) == {"NCCL_DEBUG": "INFO", "TOKENIZERS_PARALLELISM": "false"}

    @pytest.mark.parametrize(
        "name",
        [
            *("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "hf_token"),
            *("RAY_AUTH_TOKEN", "DB_PASSWD", "OPENAI_APIKEY", "GOOGLE_CREDENTIALS"),
        ],
    )
    @pytest.mark.parametrize("is_set", [True, False])
    def test_names_of_secrets_are_refused_and_the_value_is_not_shown(self, name: str, *, is_set: bool) -> None:
        with pytest.raises(InputError) as refused:
            named_variables([name], {name: "c4n4ry"} if is_set else {})
        assert codes(refused) == ["MS-191"]
        assert "c4n4ry" not in str(refused.value)
        assert "file on each node" in str(refused.value)

    @pytest.mark.parametrize(
        "value",
        ["hf_c4n4ry", "ghp_c4n4ry", "AKIAC4N4RY", "https://me:c4n4ry@host/", "-----BEGIN RSA PRIVATE KEY-----c4n4ry"],
    )
    def test_values_that_are_secrets_are_refused_under_any_name(self, value: str) -> None:
        with pytest.raises(InputError) as refused:
            named_variables(["HARMLESS"], {"HARMLESS": value})
        assert codes(refused) == ["MS-191"]
        assert "c4n4ry" not in str(refused.value).lower()

    def test_the_place_of_a_secret_is_none(self) -> None:
        assert named_variables(["HF_TOKEN_PATH"], {"HF_TOKEN_PATH": "/etc/hf"}) == {"HF_TOKEN_PATH": "/etc/hf"}
        with pytest.raises(InputError):
            named_variables(["HF_TOKEN_PATH"], {"HF_TOKEN_PATH": "c4n4ry"})

    def test_a_value_on_the_command_line_is_refused_and_not_repeated(self) -> None:
        with pytest.raises(InputError) as refused:
            named_variables(["HF_TOKEN=c4n4ry", "NOT_SET", "two words"], {})
        assert codes(refused) == ["MS-192", "MS-192", "MS-192"]
        assert "c4n4ry" not in str(refused.value)


class TestPackage:
    def folder(self, path: Path, *names: str) -> Path:
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(name)
        return path

    def packed(self, folder: Path, sweep: Path, target: Path) -> tuple[str, set[str]]:
        name = pack(folder, target, sweep=sweep, excludes=job_settings()["excludes"])
        with zipfile.ZipFile(target) as archive:
            return name, {member for member in archive.namelist() if not member.endswith("/")}

    def test_code_travels_and_data_runs_history_and_secrets_stay(self, tmp_path: Path) -> None:
        code = ["sweep.yaml", "rewards.py", "modpo/data/pairs.py"]
        left_out = ["data/pairs.jsonl", "runs/a/run.json", ".git/HEAD", ".venv/x.py", "venv/x.py", ".env", "a/.netrc"]
        folder = self.folder(tmp_path / "project", *code, *left_out, "modpo/__pycache__/x.pyc", "host.pem")
        name, names = self.packed(folder, folder / "sweep.yaml", tmp_path / "package.zip")
        assert (name, names) == ("sweep.yaml", set(code))

    @pytest.mark.parametrize("place", ["elsewhere/sweep.yaml", "project/data/sweep.yaml", "project/hidden.yaml"])
    def test_the_sweep_file_travels_wherever_it_lies(self, tmp_path: Path, place: str) -> None:
        folder = self.folder(tmp_path / "project", "rewards.py")
        (folder / ".gitignore").write_text("hidden.yaml\n")
        sweep = self.folder(tmp_path, place) / place
        name, names = self.packed(folder, sweep, tmp_path / "package.zip")
        assert name in names
        with zipfile.ZipFile(tmp_path / "package.zip") as archive:
            assert archive.read(name).decode() == place

    def test_the_same_files_are_the_same_package(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path / "project", "rewards.py")
        sweep = self.folder(tmp_path, "sweep.yaml") / "sweep.yaml"
        for number in (1, 2):
            self.packed(folder, sweep, tmp_path / f"{number}.zip")
        assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()

    def test_too_much_is_refused_with_its_largest_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("modpo.orchestration.job_environment.GCS_STORAGE_MAX_SIZE", 2**21)
        folder = self.folder(tmp_path / "project", "sweep.yaml")
        (folder / "weights.bin").write_bytes(bytes(3 * 2**20))
        with pytest.raises(InputError) as refused:
            self.packed(folder, folder / "sweep.yaml", tmp_path / "package.zip")
        assert codes(refused) == ["MS-198"]
        assert "weights.bin 3 MiB" in str(refused.value)


class TestRequest:
    """Of a sweep on the demo world, whose files lie outside of the working directory."""

    def request(
        self, world: Path, folder: Path, overrides: tuple[str, ...] = (), *, pairs: str | None = None
    ) -> JobRequest:
        raw = raw_sweep(name="small", data={"template": "{prompt}\n", "eval_fraction": 0.2})
        raw["model"]["name_or_path"] = str(world / "model")
        for objective in raw["objectives"]:
            objective["pairs"] = {"path": str(world / f"{objective['name']}.jsonl")}
        if pairs is not None:
            raw["objectives"][0]["pairs"] = {"path": pairs}
        sweep = folder / "sweep.yaml"
        sweep.write_text(yaml.safe_dump(raw), encoding="utf-8")
        with packed_job(sweep, overrides=overrides, working_dir=folder, variables={"OMP_NUM_THREADS": "4"}) as request:
            assert zipfile.is_zipfile(request.runtime_env["working_dir"])
            return request

    def test_nothing_of_this_machine_is_asked_for(self, demo_world: Path, tmp_path: Path) -> None:
        """Neither its processors nor the storage path, which only the nodes have."""
        overrides = ("storage_path=/proc/not/here", "resources.cpus_per_worker=4096")
        request = self.request(demo_world, tmp_path, overrides)
        assert request.run_path == "/proc/not/here/small"
        assert request.run == "small"

    def test_overrides_reach_the_command_as_they_were_given(self, demo_world: Path, tmp_path: Path) -> None:
        override = "evaluation.num_prompts=3 # $(touch x); 'y'"
        request = self.request(demo_world, tmp_path, ("storage_path=/mnt/runs", override))
        said = subprocess.run(
            ["bash", "-c", request.entrypoint.replace("python", "printf '%s\\n'", 1)],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        expected = ["-m", "modpo", "run", "sweep.yaml", "--set", "storage_path=/mnt/runs", "--set", override]
        assert said.stdout.splitlines() == expected == shlex.split(request.entrypoint)[1:]
        assert not (tmp_path / "x").exists()

    def test_a_sweep_file_above_the_working_directory_is_packed_inside(self, demo_world: Path, tmp_path: Path) -> None:
        self.request(demo_world, tmp_path, ("storage_path=/mnt/runs",))
        (tmp_path / "code").mkdir()
        beside = tmp_path / "code" / ".." / "sweep.yaml"
        overrides = ["storage_path=/mnt/runs"]
        with packed_job(beside, overrides=overrides, working_dir=tmp_path / "code", variables={}) as request:
            assert shlex.split(request.entrypoint)[4] == "submitted/sweep.yaml"

    def test_named_variables_go_before_those_of_the_file(self, demo_world: Path, tmp_path: Path) -> None:
        variables = self.request(demo_world, tmp_path, ("storage_path=/mnt/runs",)).runtime_env["env_vars"]
        assert variables == {**job_settings()["env_vars"], "OMP_NUM_THREADS": "4"}

    def test_a_relative_storage_path_would_be_lost(self, demo_world: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError) as refused:
            self.request(demo_world, tmp_path)
        assert codes(refused) == ["MS-193"]

    def test_a_bucket_is_no_relative_path(self, demo_world: Path, tmp_path: Path) -> None:
        assert self.request(demo_world, tmp_path, ("storage_path=s3://bucket/runs",)).run_path.startswith(
            "s3://bucket/runs/"
        )

    @pytest.mark.parametrize(("name", "travels"), [("data/vivid.jsonl", False), ("pairs/vivid.jsonl", True)])
    def test_a_file_that_would_not_be_there_is_refused(
        self, demo_world: Path, tmp_path: Path, name: str, *, travels: bool
    ) -> None:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes((demo_world / "vivid.jsonl").read_bytes())
        if travels:
            assert self.request(demo_world, tmp_path, ("storage_path=/mnt/runs",), pairs=name)
            return
        with pytest.raises(InputError) as refused:
            self.request(demo_world, tmp_path, ("storage_path=/mnt/runs",), pairs=name)
        assert codes(refused) == ["MS-194"]

    def test_a_bad_file_is_refused_as_modpo_validate_does(self, demo_world: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError) as refused:
            self.request(demo_world, tmp_path, ("storage_path=/mnt/runs", "training.beta=-1"))
        assert codes(refused) == ["MS-113"]

    def test_files_that_only_the_nodes_have_are_left_to_the_job(self, tmp_path: Path) -> None:
        """The rest of the file is checked here all the same."""
        there = Path("/mnt/only/there")
        overrides = [f"storage_path={there}", f"model.name_or_path={there}"]
        with pytest.raises(InputError) as refused:
            self.request(there, tmp_path, tuple(overrides))
        assert codes(refused) == ["MS-141", "MS-142", "MS-142"]
        sweep = tmp_path / "sweep.yaml"
        options = {"working_dir": tmp_path, "variables": {}, "files_on_nodes": True}
        with packed_job(sweep, overrides=overrides, **options) as request:
            assert request.run_path == f"{there}/small"
        with pytest.raises(InputError) as refused, packed_job(sweep, overrides=["training.beta=-1"], **options):
            pass
        assert codes(refused) == ["MS-113"]

    def test_a_working_directory_that_is_none_is_refused(self, tmp_path: Path) -> None:
        with (
            pytest.raises(InputError) as refused,
            packed_job(tmp_path / "s.yaml", overrides=(), working_dir=tmp_path / "no", variables={}),
        ):
            pass
        assert codes(refused) == ["MS-197"]


def test_the_settings_are_part_of_the_package(repository: Path) -> None:
    """An installed wheel has no checkout to read them from."""
    raw: dict[str, Any] = yaml.safe_load((repository / "modpo" / "orchestration" / "runtime_env.yaml").read_text())
    assert job_settings() == raw
