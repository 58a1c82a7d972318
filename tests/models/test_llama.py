"""Presets and the Llama models built from them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_step import random_model

from tinyohem.config.model import PRESETS, ModelConfig, Shape, model_shape
from tinyohem.errors import InputError
from tinyohem.models.causal_lm import head_weight, load_causal_lm, trunk
from tinyohem.models.llama import build_model

SMALL = Shape(hidden_size=24, num_layers=2, num_heads=3, intermediate_size=40)
DEFAULT_VOCAB = 4096
UNITS = {"k": 10**3, "m": 10**6}


def small_model(seed: int = 0) -> torch.nn.Module:
    return build_model(SMALL, 50, 16, start_id=7, seed=seed)


@pytest.mark.parametrize("shape", [*PRESETS.values(), SMALL])
@pytest.mark.parametrize("vocab_size", [257, DEFAULT_VOCAB])
def test_the_count_is_that_of_the_model(shape: Shape, vocab_size: int) -> None:
    with torch.device("meta"):  # dimensions without memory
        model = build_model(shape, vocab_size, 16, start_id=0, seed=0)
    assert shape.num_parameters(vocab_size) == model.num_parameters()


def test_the_default_preset_has_1_95_million_parameters() -> None:
    assert ModelConfig().preset == "2m"
    count = PRESETS["2m"].num_parameters(DEFAULT_VOCAB)
    assert count == pytest.approx(1.95e6, rel=0.05)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_as_many_parameters_as_its_name_says(name: str) -> None:
    named = float(name[:-1]) * UNITS[name[-1]]
    assert PRESETS[name].num_parameters(DEFAULT_VOCAB) == pytest.approx(named, rel=0.1)
    assert model_shape(ModelConfig.model_validate({"preset": name})) == PRESETS[name]


def test_own_dimensions_lie_over_the_preset() -> None:
    found = model_shape(ModelConfig(preset="1m", num_layers=1, intermediate_size=17))
    assert found == replace(PRESETS["1m"], num_layers=1, intermediate_size=17)


@pytest.mark.parametrize(("hidden_size", "num_heads"), [(100, 3), (24, 8), (8, 8)])
def test_heads_must_divide_the_hidden_size_evenly(hidden_size: int, num_heads: int) -> None:
    config = ModelConfig(hidden_size=hidden_size, num_heads=num_heads)
    with pytest.raises(InputError, match=f"model.hidden_size = {hidden_size} .* {num_heads} heads"):
        model_shape(config)


def test_the_same_seed_gives_the_same_weights() -> None:
    first, again, other = (small_model(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_every_layer_begins_as_the_identity_and_learns() -> None:
    model = small_model()
    embedded = model.get_input_embeddings()(torch.arange(6)[None])
    cos_sin = trunk(model).rotary_emb(embedded, torch.arange(6)[None])
    for layer in trunk(model).layers:
        torch.testing.assert_close(layer(embedded, position_embeddings=cos_sin), embedded)
    model(input_ids=torch.arange(6)[None]).logits.square().sum().backward()
    for layer in trunk(model).layers:
        assert layer.self_attn.o_proj.weight.grad.any()
        assert layer.mlp.down_proj.weight.grad.any()
        assert layer.self_attn.q_proj.weight.any()  # no matrix is stuck at zero on both sides


def test_trunk_and_head_make_the_logits() -> None:
    model = random_model(SMALL, 50, 16)
    input_ids = torch.arange(12).view(2, 6)
    hidden = trunk(model)(input_ids=input_ids, use_cache=False).last_hidden_state
    expected = model(input_ids=input_ids).logits
    torch.testing.assert_close(hidden @ head_weight(model).T, expected)


def test_the_head_is_the_embedding() -> None:
    model = small_model()
    assert head_weight(model) is model.get_input_embeddings().weight
    assert head_weight(model).shape == (50, 24)


def test_the_config_is_ready_to_generate() -> None:
    config = small_model().config
    assert (config.bos_token_id, config.eos_token_id) == (7, 7)
    assert config.max_position_embeddings == 16


def test_the_start_token_learns_as_input() -> None:
    """As `padding_idx` its row of the embedding would get no gradient from being read."""
    model = random_model(SMALL, 50, 16)
    hidden = trunk(model)(input_ids=torch.tensor([[7, 3]]), use_cache=False).last_hidden_state
    hidden[:, 1:].sum().backward()
    rows = model.get_input_embeddings().weight.grad.abs().sum(dim=1)
    assert rows[7] > 0
    assert rows.count_nonzero() == 2


def test_a_saved_model_loads_with_the_same_weights(tmp_path: Path) -> None:
    model = random_model(SMALL, 50, 16)
    model.save_pretrained(tmp_path)
    loaded = load_causal_lm(str(tmp_path)).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_a_folder_without_a_model_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot load a language model"):
        load_causal_lm(str(tmp_path))
