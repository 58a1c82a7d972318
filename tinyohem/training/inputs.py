"""What a run reads before anything else: its stories, and the model that it starts from."""

from functools import partial

from tinyohem.config.run import RunConfig
from tinyohem.difficulty.choose import prepare_chosen
from tinyohem.models.pretrained import load_pretrained
from tinyohem.progress import SILENT, Progress
from tinyohem.training.prepare import Inputs
from tinyohem.training.target_reference import score_by_reference

# The data of a run, with the stories that its config chooses, by a model where it asks for one.
prepare_stories = partial(prepare_chosen, by_model=score_by_reference)


def open_inputs(config: RunConfig, progress: Progress = SILENT) -> Inputs:
    """Load the model that a run starts from, and prepare its data: tokenize, score, choose.

    Raises:
        InputError: the config, the data or the model forbids the run.
    """
    pretrained = load_pretrained(config, progress) if config.model.init_from else None
    return Inputs(pretrained, prepare_stories(config, progress))
