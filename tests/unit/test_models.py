"""The padded forward pass and the adapters, on the demo's tiny Llama."""

from __future__ import annotations

import ast
import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import GPT2Config, LlamaConfig, PreTrainedConfig, PreTrainedModel

from modpo.config.tree import LoraConfig, ModelConfig
from modpo.core.batch import IGNORED_LABEL, SequenceBatch
from modpo.errors import InputError, SetupError
from modpo.model_configs import check_loadable, layer_size
from modpo.models import (
    attach_adapter,
    is_adapter,
    load_model,
    make_sequences,
    plain_model,
    quantisation,
    save_trained,
    sequence_logps,
    trained_model,
)
from tests.acceptance.plugin import Accept
from tests.unit.completions import PROMPTS, RESPONSES, SMALL_LLAMA, logps_by_token, tiny

PAD = 0
LORA = LoraConfig(r=2, lora_alpha=4)


def model_config(world: Path, dtype: str = "float32") -> ModelConfig:
    return ModelConfig.model_validate({"name_or_path": str(world / "model"), "dtype": dtype, "lora": LORA.model_dump()})


@pytest.fixture
def base(demo_world: Path) -> PreTrainedModel:
    return load_model(model_config(demo_world))


def batch() -> SequenceBatch:
    return make_sequences(PROMPTS, RESPONSES, pad_token_id=PAD)


def randomised(policy: PeftModel, seed: int) -> dict[str, torch.Tensor]:
    """Gives the adapter weights that change the model; returns the trained parameters as an engine would."""
    generator = torch.Generator().manual_seed(seed)
    trained = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return {name: parameter.detach().clone() for name, parameter in trained.items()}


@torch.no_grad()
def logps(model: torch.nn.Module) -> torch.Tensor:
    return sequence_logps(model, batch())


class TestSequences:
    def test_rows_are_padded_on_the_right_with_labels_on_the_response(self) -> None:
        made = make_sequences([[5, 6], [7]], [[8, 2], [9, 9, 9, 2]], pad_token_id=PAD)
        no = IGNORED_LABEL
        assert made.input_ids.tolist() == [[5, 6, 8, 2, 0], [7, 9, 9, 9, 2]]
        assert made.attention_mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
        assert made.labels.tolist() == [[no, no, 8, 2, no], [no, 9, 9, 9, 2]]

    def test_a_response_token_equal_to_the_padding_still_counts(self) -> None:
        """Many models pad with their end token: the response's own end must stay a label."""
        made = make_sequences([[5]], [[6, 2]], pad_token_id=2)
        assert made.labels.tolist() == [[IGNORED_LABEL, 6, 2]]
        assert made.attention_mask.tolist() == [[1, 1, 1]]


class TestLogps:
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> PreTrainedModel:
        return tiny(SMALL_LLAMA)

    def test_equal_to_one_forward_per_token(self, model: PreTrainedModel, accept: Accept) -> None:
        """Of the response with its end token, and of nothing else."""
        error = (logps(model) - logps_by_token(model)).abs().max().item()
        accept("C1", "largest error in nats, padded", error, at_most=1e-5)

    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize("extra", [1, 7, 30])
    def test_padding_does_not_matter(self, model: PreTrainedModel, extra: int, side: str, accept: Accept) -> None:
        """This family knows distances between tokens only, so that even padding on the left is no matter."""
        plain = batch()

        def padded(tensor: torch.Tensor, value: int) -> torch.Tensor:
            return torch.nn.functional.pad(tensor, (0, extra) if side == "right" else (extra, 0), value=value)

        wide = SequenceBatch(
            padded(plain.input_ids, 3), padded(plain.attention_mask, 0), padded(plain.labels, IGNORED_LABEL)
        )
        with torch.no_grad():
            change = (sequence_logps(model, wide) - logps(model)).abs().max().item()
        accept("C2", "largest change by padding, in nats", change, at_most=1e-4)


class TestLoading:
    @pytest.mark.parametrize(("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
    def test_weights_have_the_declared_precision(self, demo_world: Path, dtype: str, expected: torch.dtype) -> None:
        model = load_model(model_config(demo_world, dtype))
        assert {parameter.dtype for parameter in model.parameters()} == {expected}
        assert not model.training

    def test_two_models_of_one_folder_share_nothing(self, demo_world: Path) -> None:
        first, second = (load_model(model_config(demo_world)) for _ in range(2))
        with torch.no_grad():
            next(first.parameters()).zero_()
        assert next(second.parameters()).abs().sum() > 0
        assert first.config is not second.config

    def test_how_4_bits_are_made_is_what_the_page_says(self, repository: Path) -> None:
        """The call on the page, argument by argument; transformers' defaults for all else."""
        page = (repository / "docs" / "concepts.md").read_text(encoding="utf-8")
        (call,) = [
            node
            for node in ast.walk(ast.parse(page.split("```python\n")[1].split("```")[0]))
            if isinstance(node, ast.Call)
        ]
        shown = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        made = quantisation(ModelConfig(name_or_path="org/model", load_in_4bit=True))
        assert made is not None
        assert {name: repr(getattr(made, str(name))) for name in shown} == shown
        assert made.to_diff_dict().keys() <= {*shown, "quant_method", "_load_in_4bit"}
        in_float32 = quantisation(ModelConfig(name_or_path="org/model", dtype="float32", load_in_4bit=True))
        assert in_float32 is not None and in_float32.bnb_4bit_compute_dtype == torch.float32
        assert quantisation(ModelConfig(name_or_path="org/model")) is None

    @pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
    def test_4_bits_without_the_package(self, demo_world: Path) -> None:
        config = model_config(demo_world).model_copy(update={"load_in_4bit": True})
        with pytest.raises(SetupError) as caught:
            load_model(config)
        assert [problem.code for problem in caught.value.problems] == ["MS-404"]

    def test_a_folder_that_is_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            load_model(ModelConfig(name_or_path=str(tmp_path)))
        (problem,) = caught.value.problems
        assert (problem.code, problem.where) == ("MS-161", "model.name_or_path")

    def test_a_model_is_checked_without_its_weights(self, demo_world: Path, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        shutil.copytree(demo_world / "model", folder)
        (folder / "model.safetensors").unlink()
        check_loadable(ModelConfig(name_or_path=str(folder)), longest=64)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # Four matrices of 64 x 64 and three of 64 x 128.
        (LlamaConfig(hidden_size=64, intermediate_size=128), (64, 40960)),
        # What says nothing of the part behind the attention has four times the hidden size there.
        (GPT2Config(n_embd=32), (32, 16384)),
    ],
)
def test_the_size_of_a_layer_from_the_config_alone(
    tmp_path: Path, config: PreTrainedConfig, expected: tuple[int, int]
) -> None:
    config.save_pretrained(tmp_path)
    assert layer_size(ModelConfig(name_or_path="elsewhere"), path=str(tmp_path)) == expected


class TestAdapter:
    def test_a_fresh_one_changes_no_bit(self, base: PreTrainedModel) -> None:
        before = logps(base)
        policy = attach_adapter(base, LORA, seed=0)
        assert torch.equal(logps(policy), before)

    def test_only_its_own_weights_are_trained(self, base: PreTrainedModel) -> None:
        policy = attach_adapter(base, LORA, seed=0)
        trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
        assert trained and all("lora_" in name for name in trained)

    def test_seed_fixes_its_weights(self, demo_world: Path) -> None:
        def initial(seed: int) -> torch.Tensor:
            policy = attach_adapter(load_model(model_config(demo_world)), LORA, seed=seed)
            return torch.cat([p.detach().flatten() for p in policy.parameters() if p.requires_grad])

        assert torch.equal(initial(1), initial(1))
        assert not torch.equal(initial(1), initial(2))

    def test_it_keeps_float32_on_a_bfloat16_base(self, demo_world: Path) -> None:
        policy = attach_adapter(load_model(model_config(demo_world, "bfloat16")), LORA, seed=0)
        assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}

    def test_named_modules_are_the_only_targets(self, base: PreTrainedModel) -> None:
        policy = attach_adapter(base, LoraConfig(r=2, target_modules=("q_proj",)), seed=0)
        assert all("q_proj" in name for name, parameter in policy.named_parameters() if parameter.requires_grad)

    def test_the_plain_model_inside_has_the_adapter(self, base: PreTrainedModel) -> None:
        policy = attach_adapter(base, LORA, seed=0)
        randomised(policy, seed=1)
        assert isinstance(plain_model(policy), PreTrainedModel)
        assert torch.equal(logps(plain_model(policy)), logps(policy))


class TestTrainedModel:
    @pytest.fixture
    def adapter(self, demo_world: Path, tmp_path: Path) -> tuple[Path, torch.Tensor]:
        """A saved adapter, and the log-probabilities of the policy that it was saved from."""
        policy = attach_adapter(load_model(model_config(demo_world)), LORA, seed=0)
        parameters = randomised(policy, seed=1)
        save_trained(policy, tmp_path / "adapter", parameters)
        return tmp_path / "adapter", logps(policy)

    def test_an_adapter_is_put_in_and_taken_out(
        self, adapter: tuple[Path, torch.Tensor], base: PreTrainedModel, demo_world: Path
    ) -> None:
        folder, trained_logps = adapter
        assert is_adapter(folder)
        reference = logps(base)
        modules = [name for name, _ in base.named_modules()]
        for _ in range(2):
            with trained_model(base, model_config(demo_world), folder) as trained:
                assert torch.equal(logps(trained.policy), trained_logps)
                assert not torch.allclose(trained_logps, reference, atol=0.1)
                with trained.reference() as model:
                    assert torch.equal(logps(model), reference)
                assert torch.equal(logps(trained.policy), trained_logps)
            assert torch.equal(logps(base), reference)
            assert [name for name, _ in base.named_modules()] == modules

    def test_an_exception_takes_the_adapter_out_too(
        self, adapter: tuple[Path, torch.Tensor], base: PreTrainedModel, demo_world: Path
    ) -> None:
        reference = logps(base)
        with pytest.raises(RuntimeError, match="scoring"), trained_model(base, model_config(demo_world), adapter[0]):
            raise RuntimeError("scoring")
        assert torch.equal(logps(base), reference)

    def test_an_adapter_holds_nothing_but_itself(self, adapter: tuple[Path, torch.Tensor]) -> None:
        from safetensors.torch import load_file

        tensors = load_file(adapter[0] / "adapter_model.safetensors")
        assert tensors and all("lora_" in name and tensor.dtype == torch.float32 for name, tensor in tensors.items())

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_a_full_model_is_loaded_beside_the_base(self, demo_world: Path, tmp_path: Path, dtype: str) -> None:
        config = model_config(demo_world, dtype)
        base = load_model(config)
        reference = logps(base)
        policy = load_model(config)
        parameters = {name: parameter.detach().float() * 1.5 for name, parameter in policy.named_parameters()}
        save_trained(policy, tmp_path / "full", parameters)
        assert not is_adapter(tmp_path / "full")
        with trained_model(base, config, tmp_path / "full") as trained:
            assert trained.policy.dtype == policy.dtype
            stored = dict(trained.policy.named_parameters())
            assert all(torch.equal(stored[name], value.to(policy.dtype)) for name, value in parameters.items())
            with trained.reference() as model:
                assert torch.equal(logps(model), reference)
