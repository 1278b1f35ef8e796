"""Small random CLIP and SigLIPs with real tokenizers, whose vectors differ from text to text."""

import json
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers

from support.small_models import TRANSFORMER, Reference, save_model

TEXT_MODELS = ("clip", "siglip", "siglip2-naflex")
N_TOKENS = 20
"""Of a text, at most."""


@dataclass(frozen=True)
class PlainModel:
    """The whole model of a saved folder by plain transformers, and texts as its documentation has them."""

    network: Any
    image: Reference
    tokenize: Callable[[list[str]], dict[str, torch.Tensor]]

    @torch.inference_mode()
    def text_vectors(self, texts: list[str]) -> torch.Tensor:
        """Return the features of texts, one by one."""
        found = [self.network.get_text_features(**self.tokenize([text])) for text in texts]
        return torch.cat([one if isinstance(one, torch.Tensor) else one.pooler_output for one in found])

    @torch.inference_mode()
    def logits(self, image, texts: list[str]) -> torch.Tensor:
        """Return logits_per_image of one image."""
        return self.network(**self.image.process(image), **self.tokenize(texts)).logits_per_image[0]


def save_text_model(name: str, folder: Path) -> PlainModel:
    """Write one of `TEXT_MODELS` into a folder, its weights random but always the same."""
    reference = save_model(name, folder)
    _TOKENIZERS[name](folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder).to_dict()
    config["text_config"] |= {
        **TRANSFORMER,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": N_TOKENS,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    network = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**config)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)  # as they begin, all texts are alike
        if name != "clip":
            network.logit_scale.fill_(2.0)
            network.logit_bias.fill_(-1.0)
    network.save_pretrained(folder)
    padding = {"padding": True} if name == "clip" else {"padding": "max_length"}

    def tokenize(texts):
        return dict(tokenizer(texts, truncation=True, max_length=N_TOKENS, return_tensors="pt", **padding))

    return PlainModel(network, reference, tokenize)


def _save_clip_tokenizer(folder: Path) -> None:
    """CLIP's byte-level BPE with a token for each letter, and for each at the end of a word."""
    letters = string.ascii_lowercase + string.digits + ".,"
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **special}))


def _save_siglip_tokenizer(folder: Path) -> None:
    """A sentencepiece of single letters, with the numbers that SigLIP's has for its own tokens."""
    with (folder / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([string.ascii_lowercase, string.digits, "a cat, a dog."]),
            model_writer=file,
            model_type="char",
            vocab_size=42,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    config = {
        "tokenizer_class": "SiglipTokenizer",
        "model_max_length": 64,
        "model_input_names": ["input_ids"],
    }
    special = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **special}))


def _save_siglip2_tokenizer(folder: Path) -> None:
    """SigLIP 2's: Gemma's, of single letters; it has a mask, and pads to the left."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *string.ascii_lowercase, *string.digits, *"▁.,"]
    vocab = {name: number for number, name in enumerate(names)}
    transformers.Siglip2Tokenizer(vocab=vocab, merges=[]).save_pretrained(folder)


_TOKENIZERS = {
    "clip": _save_clip_tokenizer,
    "siglip": _save_siglip_tokenizer,
    "siglip2-naflex": _save_siglip2_tokenizer,
}
