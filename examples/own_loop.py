"""OhemLoss in a plain PyTorch loop: for a part of it, half of the tokens get a gradient."""

from itertools import islice

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tinyohem import OhemLoss
from tinyohem.data.sample.stories import sample_stories
from tinyohem.data.tokenizer import train_tokenizer

STEPS, BATCH, LENGTH = 60, 8, 64

torch.manual_seed(0)
stories = list(islice(sample_stories("train"), 500))
tokenizer = train_tokenizer(stories, vocab_size=600)
ids = torch.tensor(tokenizer("<|endoftext|>".join(stories))["input_ids"])
windows = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)

shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=600, intermediate_size=128, **shape))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
mined = OhemLoss(ratio=0.5)
schedule = mined.config.keep_schedule()  # `recover`: all tokens at both ends

for step in range(STEPS):
    batch = windows[torch.randint(len(windows), (BATCH,))]
    hidden = model.model(input_ids=batch).last_hidden_state
    keep_ratio = schedule.keep_ratio((step + 0.5) / STEPS)
    loss = mined(hidden[:, :-1], batch[:, 1:], model.lm_head.weight, keep_ratio=keep_ratio)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 9:
        print(f"step {step + 1}  loss {mined.full_loss:.3f}  kept {mined.kept_share:.0%}")
