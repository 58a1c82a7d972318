"""Other names for a recipe's keys: former names, names in other trainers, misspellings.

Meaning comes before spelling, which alone would take `learning_rate` for `min_lr_ratio`.
"""

import difflib
import warnings
from collections.abc import Iterable, Mapping

from pydantic.fields import FieldInfo

from tinyohem.config.sections import flag_of
from tinyohem.errors import RenamedKeyWarning

# Names of the previous version, which the next one will no longer accept.
RENAMED = {
    "ohem.interrupt": "full_step_every",
    "ohem.nms_key": "dedup",
    "ohem.nms_window": "dedup_window",
    "ohem.nms_max": "dedup_max",
    "ohem.hard_windows": "hard_window_share",
}
# Keys that only the records of older runs may have.
WITHDRAWN = frozenset({"ohem.ema_decay"})

_KEYS = {
    "data.dataset": "data data_dir data_path dataset_name dataset_path path train_data train_file",
    "data.valid": "eval_data eval_dataset eval_file test_file val val_data val_file valid_data "
    "valid_file validation validation_file",
    "data.text_field": "column field text_column text_key",
    "data.licence": "license",
    "tokenizer.name": "tokenizer_name tokenizer_path",
    "tokenizer.vocab_size": "n_vocab vocab vocabulary vocabulary_size",
    "model.preset": "model_size name size",
    "model.init_from": "checkpoint finetune from_pretrained load_from model_name_or_path "
    "model_path pretrained resume_from",
    "model.hidden_size": "d_model dim embed_dim embedding_dim hidden hidden_dim n_embd n_embed "
    "width",
    "model.intermediate_size": "d_ff d_mlp ffn ffn_dim ffn_hidden_size mlp_dim",
    "model.num_heads": "attention_heads heads n_head n_heads num_attention_heads",
    "model.num_layers": "depth layers n_layer n_layers num_hidden_layers",
    "training.batch_size": "batch bs bsz global_batch_size per_device_train_batch_size "
    "train_batch_size",
    "training.micro_batch_size": "accumulate_grad_batches accumulation_steps grad_accum "
    "gradient_accumulation_steps micro_batch microbatch",
    "training.seq_len": "block_size context context_len context_length ctx ctx_len max_length "
    "max_position_embeddings max_seq_len max_seq_length n_ctx n_positions seq_length "
    "sequence_length window",
    "training.steps": "iterations iters max_iters max_steps n_steps num_iterations num_steps "
    "num_train_steps total_steps train_iters train_steps",
    "training.tokens": "budget epoch epochs max_epochs max_tokens n_epochs num_epochs num_tokens "
    "num_train_epochs total_tokens train_tokens",
    "training.seconds": "duration max_seconds max_time time time_limit",
    "training.seed": "manual_seed random_seed rng_seed",
    "training.device": "accelerator cpu cuda gpu gpus no_cuda use_cpu",
    "training.precision": "amp autocast bf16 bfloat16 dtype float16 fp16 fp32 half mixed_precision "
    "tf32 torch_dtype",
    "training.compile": "compile_model torch_compile use_compile",
    "training.eval_every": "eval_freq eval_interval eval_steps val_check_interval val_every "
    "val_interval validate_every",
    "training.eval_tokens": "eval_batches eval_iters limit_val_batches",
    "training.log_every": "log_every_n_steps log_interval log_steps logging_interval logging_steps",
    "training.save_every": "checkpoint_every checkpoint_interval ckpt_every ckpt_interval "
    "save_interval save_steps",
    "training.keep_last": "keep_checkpoints max_checkpoints save_total_limit",
    "optim.optimizer": "opt optim optimiser optimizer_type",
    "optim.lr": "alpha base_lr learning_rate lr_max max_learning_rate max_lr peak_learning_rate "
    "rate step_size",
    "optim.min_lr_ratio": "end_lr eta_min final_lr lr_min min_learning_rate min_lr",
    "optim.schedule": "lr_decay_style lr_schedule lr_scheduler lr_scheduler_type scheduler",
    "optim.warmup_fraction": "lr_warmup_steps num_warmup_steps warmup warmup_iters warmup_ratio "
    "warmup_steps",
    "optim.decay_fraction": "cooldown cooldown_steps decay decay_steps lr_decay_iters "
    "lr_decay_steps",
    "optim.weight_decay": "l2 wd",
    "optim.beta1": "adam_beta1",
    "optim.beta2": "adam_beta2",
    "optim.max_grad_norm": "clip clip_grad clip_grad_norm clip_norm grad_clip grad_norm "
    "gradient_clip gradient_clip_val gradient_clipping max_norm",
    "ohem.ratio": "hard_ratio keep keep_fraction keep_rate keep_ratio topk_ratio",
    "ohem.select": "method selection strategy",
    "ohem.ema_horizon": "ema ema_beta ema_decay",
    "tracking.wandb": "logger report_to use_wandb",
    "tracking.project": "wandb_project",
}
# For keys whose other names usually have another unit.
_REMARKS = {
    "training.tokens": "such as 4M or 3epochs",
    "training.micro_batch_size": "sequences of one forward pass",
    "training.precision": "bfloat16, float32 or medium",
    "training.eval_tokens": "tokens of the validation split",
    "optim.min_lr_ratio": "a share of optim.lr",
    "optim.warmup_fraction": "a share of all steps",
    "optim.decay_fraction": "a share of all steps",
    "ohem.ema_horizon": "a share of all steps",
}
ALIASES = {alias: key for key, names in _KEYS.items() for alias in names.split()}

Known = Mapping[str, Mapping[str, FieldInfo]]  # the keys of each section


def current_name(section: str, key: str, *, quiet: bool = False) -> str:
    """Return the current name of a key, with a warning if `key` is its former one.

    Args:
        quiet: do not warn, for instance about the record of an older run.
    """
    name = RENAMED.get(f"{section}.{key}", key)
    if name != key and not quiet:
        warnings.warn(
            f"{section}.{key} is now {section}.{name}; the next version will not know the old name",
            RenamedKeyWarning,
            stacklevel=2,
        )
    return name


def meant_key(name: str, known: Known) -> str | None:
    """Return the `section.key` that an unknown name means, None if it is not clear.

    Args:
        name: a key with or without a section, or an option without its dashes.
    """
    section, _, word = _plain(name).rpartition(".")
    alias = ALIASES.get(word)
    if alias is not None and section and alias.startswith(f"{section}."):
        return alias
    same = [
        f"{s}.{key}"
        for s, keys in known.items()
        for key, field in keys.items()
        if word in (key, f"{s}_{key}", _plain(flag_of(field).lstrip("-")))
    ]
    return same[0] if len(same) == 1 else alias


def remark(name: str, key: str) -> str:
    """Return a bracketed remark on the unit of a key, if `name` is a known alias."""
    renamed = _plain(name).rpartition(".")[2] in ALIASES
    return f" ({_REMARKS[key]})" if renamed and key in _REMARKS else ""


def suggest_key(name: str, known: Known) -> str:
    """Return `; did you mean …?` for an unknown key, else the keys of its section if known."""
    if key := meant_key(name, known):
        return f"; did you mean {key}{remark(name, key)}?"
    section, _, word = name.rpartition(".")
    own = {key: f"{section}.{key}" for key in known.get(section, ())}
    others = {key: f"{s}.{key}" for s, keys in known.items() for key in keys}
    for keys, cutoff in ((own, 0.6), (others, 0.8)):
        if close := _close(word, keys, cutoff):
            return f"; did you mean {keys[close]}?"
    return f"; [{section}] has {', '.join(own)}" if own else ""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean …?` for the closest spelling among `names`, or an empty text."""
    close = _close(name, names, 0.5)
    return f"; did you mean {close}?" if close else ""


def _close(name: str, names: Iterable[str], cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(name[:80], list(names), 1, cutoff)), None)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
