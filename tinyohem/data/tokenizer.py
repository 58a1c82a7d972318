"""Train a byte-level BPE tokenizer on a corpus, or load one from a folder or the Hub."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tinyohem.config.training import Attention
from tinyohem.data.hub_names import require_model
from tinyohem.errors import InputError, TinyohemError
from tinyohem.runs.layout import model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, exact: bool = True
) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE of `vocab_size` tokens; same texts, same tokenizer.

    `<|endoftext|>` (id 0) is its only special token: begin, end and padding.

    Args:
        exact: whether fewer tokens will not do.

    Raises:
        InputError: `exact`, and the texts have too few distinct words for that many merges.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if exact and bpe.get_vocab_size() < vocab_size:
        raise InputError(
            f"the corpus supports a vocabulary of {bpe.get_vocab_size():,} tokens, "
            f"not {vocab_size:,}",
            f"use more text, or --set tokenizer.vocab_size={bpe.get_vocab_size()}",
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(name: str) -> "PreTrainedTokenizerFast":
    """Load a fast tokenizer from a folder, a run or a Hub id.

    Raises:
        InputError: it does not exist, has no fast (`tokenizers`) form, or its ids leave gaps.
    """
    from transformers import AutoTokenizer

    hint = "give a folder that holds tokenizer.json, or a Hub id while the Hub can be reached"
    folder = model_folder(name)
    require_model(folder, hint)
    with foreign_files(f"cannot load the tokenizer {name!r}", hint):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"the tokenizer {name!r} has no tokenizer.json",
            "only tokenizers of the `tokenizers` library are supported",
        )
    vocabulary = tokenizer.get_vocab().values()
    if not vocabulary or max(vocabulary) >= len(tokenizer):
        raise InputError(f"the ids of the tokenizer {name!r} leave gaps", "choose another one")
    # tokenizer.json may hold a training script's truncation and padding, but stories stay whole.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


@contextmanager
def foreign_files(what: str, hint: str, *ours: type[Exception]) -> Iterator[None]:
    """Turn whatever a library raises about a model's or tokenizer's files into an `InputError`.

    Libraries raise plain `Exception`, `KeyError`, `RuntimeError`, and for a panic in Rust a
    `BaseException`.

    Args:
        ours: errors that are no fault of the files.
    """
    try:
        yield
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"
        if isinstance(error, (TinyohemError, *ours)) or not (panic or isinstance(error, Exception)):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{what}: {reason}", hint) from None


def start_id(tokenizer: "PreTrainedTokenizerFast") -> int:
    """Return the id that begins every story: begin-of-text, else end-of-text.

    Raises:
        InputError: the tokenizer has neither.
    """
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise InputError(
        "the tokenizer has neither a begin-of-text nor an end-of-text token",
        "choose a tokenizer of a causal language model",
    )


def story_start(tokenizer: "PreTrainedTokenizerFast", attention: Attention) -> int | None:
    """Return the token that parts stories, None where a token may look across them."""
    return start_id(tokenizer) if attention == "story" else None


def text_encoder(tokenizer: "PreTrainedTokenizerFast") -> Any:
    """Return the `tokenizers.Tokenizer` that reads all text as text.

    A text that spells a special token (`<s>`, `[UNK]`) must not become that token. It would in two
    cases: added tokens are cut out of a text before the model sees it, and a model of whole words
    or pieces may have the token in its own vocabulary.
    """
    encoder = tokenizer.backend_tokenizer
    encoder.encode_special_tokens = True  # the first case; transformers resets it at every call
    reserved = set(tokenizer.all_special_ids)  # even if the file does not mark them as special
    spelled = {
        token.content
        for token_id, token in encoder.get_added_tokens_decoder().items()
        if (token.special or token_id in reserved)
        # A token of one character is a letter of words.
        and len(token.content) > 1
        and _spells(encoder, token.content, token_id)
    }
    return _unspellable(encoder, spelled) if spelled else encoder


def _spells(encoder: Any, text: str, token_id: int) -> bool:
    """Tell whether a text is read as this token."""
    try:
        return token_id in encoder.encode(text, add_special_tokens=False).ids
    except Exception:  # the library's own, for a word without an id
        return False


def _unspellable(tokenizer: Any, special: set[str]) -> Any:
    """Return a tokenizer with the same ids in which no text spells these tokens."""
    from tokenizers import Tokenizer

    # U+FFFF will never be a Unicode character.
    names = {content: f"\uffff{content}\uffff" for content in special}
    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = state["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in model["vocab"].items()}
    else:  # Unigram lists its pieces with their scores, by rising id
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        inside = model["continuing_subword_prefix"] or ""
        model["merges"] = [
            [left, right]
            for left, right in model["merges"]
            if special.isdisjoint((left, right, left + right.removeprefix(inside)))
        ]
    unspellable = Tokenizer.from_str(json.dumps(state))
    unspellable.encode_special_tokens = True
    return unspellable


def unknown_id(tokenizer: "PreTrainedTokenizerFast") -> int | None:
    """Return the id for text that the vocabulary lacks, None if there is no such id."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model.get("unk_token") is not None:
        found: int | None = tokenizer.backend_tokenizer.token_to_id(model["unk_token"])
        return found
    return model.get("unk_id")


def tokenizer_hash(tokenizer: "PreTrainedTokenizerFast") -> str:
    """Return a hash of everything that decides the ids of a text, in hex."""
    state = f"{tokenizer.backend_tokenizer.to_str()}\n{start_id(tokenizer)}"
    return hashlib.sha256(state.encode()).hexdigest()
