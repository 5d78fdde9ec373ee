"""One pair as the model will see it, for a person to look at: what the template wrote, and where the prompt ends."""

from __future__ import annotations

from modpo.config.tree import SweepConfig
from modpo.data.loading import LoadedData
from modpo.data.tokenize import Encoder, load_tokenizer

MAX_CHARACTERS = 400


def rendered_sample(config: SweepConfig, data: LoadedData, *, model_path: str) -> list[str]:
    """The first pair of the first objective that has one, its tokens turned back into text; without pairs, a prompt."""
    tokenizer = load_tokenizer(model_path, config.model.revision)
    encoder = Encoder(tokenizer, config.data)
    pair = next(iter(data.pairs), None)
    if pair is None:
        prompt = next(iter(data.label_prompts), None)
        title, parts = "first prompt", {} if prompt is None else {"prompt": encoder.prompt_ids(prompt)}
    else:
        encoded = encoder.pair(pair.prompt, pair.chosen, pair.rejected)
        title = f"first pair of {pair.objective} ({pair.where})"
        parts = {"prompt": encoded.prompt_ids, "chosen": encoded.chosen_ids, "rejected": encoded.rejected_ids}
    lines = [
        f"  {name:<8} {len(tokens):>5} tokens  {_shown(tokenizer.decode(tokens))}" for name, tokens in parts.items()
    ]
    return [f"{title}, as the model sees it:", *lines]


def _shown(text: str) -> str:
    """With control characters by name; of a long text both ends, for those are where a template goes wrong."""
    if len(text) > MAX_CHARACTERS:
        text = f"{text[: MAX_CHARACTERS // 2]} […] {text[-MAX_CHARACTERS // 2 :]}"
    return repr(text)
