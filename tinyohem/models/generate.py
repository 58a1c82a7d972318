"""Continue prompts with a loaded model."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tinyohem.data.story_text import checked_text
from tinyohem.data.tokenizer import foreign_files, start_id, text_encoder
from tinyohem.errors import InputError
from tinyohem.io.json import JsonObject
from tinyohem.models.source import Source

_BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token of one byte, in vocabularies that fall back on them
_CUT = "\ufffd"  # what bytes that are not yet a character decode to

Listener = Callable[[int, str], None]


@dataclass(frozen=True)
class Story:
    """A prompt with its continuation."""

    prompt: str
    seed: int
    text: str  # begins with the prompt

    def to_json(self) -> JsonObject:
        """Return the record that `generate --json` prints."""
        return {"prompt": self.prompt, "seed": self.seed, "text": self.text}


def generate(
    source: Source,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    num_samples: int = 1,
    on_text: Listener | None = None,
) -> list[Story]:
    """Continue each prompt until the end of text; temperature 0 takes the likeliest token.

    Args:
        max_new_tokens: most tokens to add; fewer where the model's context ends.
        top_k: sample from that many likeliest tokens (0: all).
        top_p: sample from the smallest set with that much probability.
        seed: of the first story; each later one has the next number.
        num_samples: stories of each prompt.
        on_text: is called with the number of a story, from 0, and its next piece of text as soon as
            there is one. The pieces of a story, some of them empty, make up its text; none ends
            inside a character.

    Returns:
        The stories of the first prompt, then those of the next.

    Raises:
        InputError: a prompt is too long or cannot be encoded; nothing was written yet.
    """
    sampled = temperature > 0
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p} if sampled else {}
    encoded = [_encode(source, prompt, index) for index, prompt in enumerate(prompts)]
    stories: list[Story] = []
    for prompt, ids in zip(prompts, encoded, strict=True):
        inputs = torch.tensor([ids], device=source.model.device)
        for _ in range(num_samples):
            pieces = Pieces(source.tokenizer, len(stories), on_text)
            torch.manual_seed(seed + len(stories))
            # The model reads no file now: an OSError is one of `on_text`, such as a full disk.
            with foreign_files(
                "this model cannot continue a text", "check its generation_config.json", OSError
            ):
                source.model.generate(
                    inputs,
                    attention_mask=torch.ones_like(inputs),
                    max_new_tokens=min(max_new_tokens, source.max_seq_len - len(ids)),
                    pad_token_id=source.tokenizer.pad_token_id or ids[0],
                    do_sample=sampled,
                    streamer=pieces,
                    **sampling,
                )
            stories.append(Story(prompt, seed + len(stories), pieces.text))
    return stories


def _encode(source: Source, prompt: str, index: int) -> list[int]:
    """Return the ids of a prompt behind the id that begins every story."""
    checked_text(prompt, f"prompt {index + 1}")
    with foreign_files("this tokenizer cannot encode the prompt", "choose another model"):
        encoded = text_encoder(source.tokenizer).encode(prompt, add_special_tokens=False)
    ids = [start_id(source.tokenizer), *encoded.ids]
    if len(ids) >= source.max_seq_len:
        raise InputError(
            f"prompt {index + 1} has {len(ids)} tokens, the model's context {source.max_seq_len}",
            "shorten it",
        )
    return ids


class Pieces:
    """Cut the tokens of a story into pieces of text as they come: a streamer of transformers.

    A piece ends where no later token changes the text before it: at a whole character, and outside
    a run of byte tokens. transformers' `TextStreamer` waits for the end of a word, and decodes
    each line by itself, which loses its first space under some tokenizers. The `DecodeStream` of
    tokenizers raises an error at bytes that are no character.
    """

    def __init__(self, tokenizer: Any, story: int = 0, on_text: Listener | None = None) -> None:
        self.text = ""  # of all tokens but those that wait for the next
        self._tokenizer = tokenizer
        self._story, self._on_text = story, on_text
        added = tokenizer.added_tokens_decoder.items()
        self._unseen = {token_id for token_id, token in added if token.special}
        self._ids: list[int] = []  # without special tokens

    def put(self, ids: torch.Tensor) -> None:
        """Take the ids of the prompt (1, T), then one id (1,) at a time."""
        self._ids += [i for i in ids.flatten().tolist() if i not in self._unseen]
        last = self._tokenizer.convert_ids_to_tokens(self._ids[-1]) if self._ids else None
        if last is None or not _BYTE.fullmatch(last):
            self._grow(self._decoded().rstrip(_CUT))

    def end(self) -> None:
        """Take what waited."""
        self._grow(self._decoded())

    def _decoded(self) -> str:
        return str(self._tokenizer.decode(self._ids, clean_up_tokenization_spaces=False))

    def _grow(self, text: str) -> None:
        if self._on_text:
            self._on_text(self._story, text[len(self.text) :])
        self.text = text
