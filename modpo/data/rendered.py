"""One pair as the model will see it, for a person to look at: what the template wrote, and where the prompt ends."""

from __future__ import annotations

from collections.abc import Iterator

from modpo.data.loading import LoadedData
from modpo.data.tokenize import Encoder
from modpo.errors import Problem, shown

MAX_CHARACTERS = 400


def rendered_sample(encoder: Encoder, data: LoadedData) -> list[str]:
    """The first pair of the first objective that has one, its tokens turned back into text; without pairs, a prompt."""
    pair = next(iter(data.pairs), None)
    if pair is None:
        prompt = next(iter(data.label_prompts), None)
        title, parts = "first prompt", {} if prompt is None else {"prompt": encoder.prompt_ids(prompt)}
    else:
        encoded = encoder.pair(pair.prompt, pair.chosen, pair.rejected)
        title = f"first pair of {pair.objective} ({pair.where})"
        parts = {"prompt": encoded.prompt_ids, "chosen": encoded.chosen_ids, "rejected": encoded.rejected_ids}
    lines = [
        f"  {name:<8} {len(tokens):>5} tokens  {_shown(encoder.tokenizer.decode(tokens))}"
        for name, tokens in parts.items()
    ]
    return [f"{title}, as the model sees it:", *lines]


def warn_of_template(encoder: Encoder, data: LoadedData) -> Iterator[Problem]:
    """Whether the first pair's responses follow something else than what responses are sampled behind.

    Spaces alone are no reason: they merge with the first word of a response.
    """
    pair = next(iter(data.pairs), None)
    if pair is None:
        return
    asked = encoder.prompt_ids(pair.prompt)
    encoded = encoder.pair(pair.prompt, pair.chosen, pair.rejected)
    unanswered = encoder.tokenizer.decode(asked[len(encoded.prompt_ids) :])
    if not isinstance(pair.prompt, str) and unanswered.strip():
        yield Problem(
            code="MS-720",
            what="the chat template begins what is to be generated with a text that no answer of the data has",
            where=pair.where,
            got=shown(unanswered),
            wanted="a template that writes the same before a response, whether it is there or to come",
            remedy="responses are trained on without that text and sampled behind it: change the template, or put the "
            "text into the responses",
        )


def _shown(text: str) -> str:
    """With control characters by name; of a long text both ends, for those are where a template goes wrong."""
    if len(text) > MAX_CHARACTERS:
        text = f"{text[: MAX_CHARACTERS // 2]} […] {text[-MAX_CHARACTERS // 2 :]}"
    return repr(text)
