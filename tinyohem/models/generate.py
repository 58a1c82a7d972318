"""Continue prompts with a loaded model."""

import torch

from tinyohem.data.story_text import checked_text
from tinyohem.data.tokenizer import foreign_files, start_id, text_encoder
from tinyohem.errors import InputError
from tinyohem.models.source import Source


def generate(
    source: Source,
    prompts: list[str],
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
) -> list[str]:
    """Continue each prompt until the end of text; temperature 0 takes the likeliest token.

    Args:
        max_new_tokens: most tokens to add; fewer where the model's context ends.
        top_k: sample from that many likeliest tokens (0: all).
        top_p: sample from the smallest set with that much probability.

    Returns:
        The prompts with their continuations.
    """
    stories = []
    start, encoder = start_id(source.tokenizer), text_encoder(source.tokenizer)
    for index, prompt in enumerate(prompts):
        checked_text(prompt, f"prompt {index + 1}")
        torch.manual_seed(seed + index)
        with foreign_files("this tokenizer cannot encode the prompt", "choose another model"):
            ids = [start, *encoder.encode(prompt, add_special_tokens=False).ids]
        room = source.max_seq_len - len(ids)
        if room < 1:
            raise InputError(
                f"prompt {index + 1} has {len(ids)} tokens, the model's context "
                f"{source.max_seq_len}",
                "shorten it",
            )
        sampled = temperature > 0
        sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p} if sampled else {}
        inputs = torch.tensor([ids], device=source.model.device)
        with foreign_files("this model cannot continue a text", "check its generation_config.json"):
            output = source.model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=min(max_new_tokens, room),
                pad_token_id=source.tokenizer.pad_token_id or start,
                do_sample=sampled,
                **sampling,
            )
        stories.append(source.tokenizer.decode(output[0], skip_special_tokens=True))
    return stories
