"""A story that a model writes while it is trained, to see what its loss means."""

import torch

from tinyohem.errors import InputError
from tinyohem.models.causal_lm import context_length
from tinyohem.models.generate import generate
from tinyohem.models.source import Source
from tinyohem.progress import Progress
from tinyohem.training.run import Run
from tinyohem.training.tracking import Tracker

_TOKENS = 60  # about three sentences


def show_sample(run: Run, tracker: Tracker, progress: Progress) -> None:
    """Show and log the beginning of a story by the model as it is now.

    It has the same seed at every step, and takes no random number of the run's own.
    """
    longest = context_length(run.model) or run.config.training.seq_len
    source = Source(run.model, run.data.tokenizer, longest)
    devices = [run.device] if run.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            (story,) = generate(
                source,
                [""],
                max_new_tokens=_TOKENS,
                temperature=0.8,
                top_k=0,
                top_p=0.95,
                seed=run.config.training.seed,
            )
    except InputError as error:  # a run does not end for want of an illustration
        progress.warn(f"no sample story: {error.message}")
        return
    tracker.log_sample(run.state.step, story.text)
    progress.note(f"step {run.state.step:,}: the model writes: {story.text}")
