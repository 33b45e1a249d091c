"""CLIP with random weights and three words, in a folder in the hub's form."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
)

WORDS = ("<pad>", "<unk>", "a", "photo", "of", "the", "cat", "dog")


def write_image_encoder(folder: Path, width: int = 512) -> Path:
    """Two blocks on patches of 8 pixels; images and texts meet in `width` dimensions."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=width,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def write_text_encoder(folder: Path) -> Path:
    """Two blocks and a tokenizer of eight words."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=12,
        max_position_embeddings=16,
        eos_token_id=len(WORDS) - 1,
        pad_token_id=0,
        bos_token_id=1,
    )
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    return folder
