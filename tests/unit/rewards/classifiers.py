"""Tiny sequence classifiers with tokenizers of their own, made from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

WORDS = (
    *("good", "bad", "the", "a", "fox", "dog", "rests", "runs", "at", "dawn", ".", "golden"),
    *("one", "two", "three", "four"),
)
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
CHAT_TEMPLATE = "{% for m in messages %}<s> {{ m['role'] }} {{ m['content'] }} {% endfor %}"


def make_tokenizer(
    words: Sequence[str] = WORDS, *, pad: bool = True, chat_template: str | None = None, begins: bool = False
) -> PreTrainedTokenizerFast:
    """One token a word; with `begins`, `<s>` is put before every text."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL_TOKENS, "user", "assistant", *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begins:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        **({"pad_token": "<pad>"} if pad else {}),
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def llama_config(tokenizer: PreTrainedTokenizerFast, **settings: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        **settings,
    )


def write_classifier(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    num_labels: int = 1,
    pad_token_id: int | None = 0,
    initializer_range: float = 0.5,
    model: type[LlamaForSequenceClassification | LlamaForCausalLM] = LlamaForSequenceClassification,
) -> str:
    """A random Llama, by its wide initial weights different on every text; returns its folder."""
    torch.manual_seed(0)
    settings = {"num_labels": num_labels, "pad_token_id": pad_token_id, "initializer_range": initializer_range}
    model(llama_config(tokenizer, **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_encoder(folder: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    """A random BERT, which reads its output at the first token."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        num_labels=1,
        pad_token_id=0,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
