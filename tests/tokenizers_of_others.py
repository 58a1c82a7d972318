"""Tokenizers as strangers make them: each kind that loses text, and one that loses none."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "[UNK]"}


def word_level(texts: Iterable[str]) -> Tokenizer:
    """Whole words; those that occur once are unknown."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(
        texts, trainers.WordLevelTrainer(min_frequency=2, special_tokens=[*SPECIAL.values()])
    )
    return tokenizer


def byte_level(texts: Iterable[str], normalizer: Any = None) -> Tokenizer:
    """Byte-level BPE behind a normalizer, which alone decides what is lost."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=[*SPECIAL.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def unigram(texts: Iterable[str]) -> Tokenizer:
    """Pieces with scores, a space ahead of each word, and its special tokens among the pieces."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=300,
            special_tokens=[*SPECIAL.values()],
            unk_token="[UNK]",
            initial_alphabet=list("<>/[]UNKs"),
            show_progress=False,
        ),
    )
    return tokenizer


def merged_specials(texts: Iterable[str]) -> Tokenizer:
    """BPE of characters whose merges spell `<s>`, as of a corpus that held it."""
    letters = sorted({*"".join(texts), *"<>/[]s▁"} - {" "})
    words = [*SPECIAL.values(), *letters, "<s", "</"]
    vocabulary = {word: number for number, word in enumerate(words)}
    merges = [("<", "s"), ("<s", ">"), ("<", "/")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


LOSSY: dict[str, Callable[[Iterable[str]], Tokenizer]] = {
    "unknown": word_level,
    "lower": lambda texts: byte_level(texts, normalizers.Lowercase()),
    "bert": lambda texts: byte_level(
        texts, normalizers.BertNormalizer(strip_accents=True, lowercase=False)
    ),
    "nfkc": lambda texts: byte_level(texts, normalizers.NFKC()),
    "spaces": lambda texts: byte_level(texts, normalizers.Replace("  ", " ")),
}


def as_loaded(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Return it as transformers holds it."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    """Write what `--tokenizer FOLDER` reads."""
    as_loaded(tokenizer).save_pretrained(folder)
    return folder
