"""OhemLoss in transformers' Trainer (needs `pip install accelerate`), by the schedule `recover`."""

import tempfile
from itertools import islice

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from tinyohem.data.sample.stories import sample_stories
from tinyohem.data.tokenizer import train_tokenizer
from tinyohem.ohem import OhemLoss, trainer_loss

LENGTH = 64

torch.manual_seed(0)
stories = list(islice(sample_stories("train"), 500))
tokenizer = train_tokenizer(stories, vocab_size=600)
ids = torch.tensor(tokenizer("<|endoftext|>".join(stories))["input_ids"])
windows = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
data = [{"input_ids": window, "labels": window} for window in windows]

shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=600, intermediate_size=128, **shape))
mined = OhemLoss(ratio=0.5)

with tempfile.TemporaryDirectory() as folder:
    steps = {"max_steps": 60, "per_device_train_batch_size": 8, "logging_steps": 10}
    quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    arguments = TrainingArguments(folder, learning_rate=3e-3, use_cpu=True, **steps, **quiet)
    loss = trainer_loss(mined, lambda: trainer)
    trainer = Trainer(model, arguments, train_dataset=data, compute_loss_func=loss)
    trainer.train()
print(f"of all tokens: loss {mined.full_loss:.3f}")
