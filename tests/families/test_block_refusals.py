"""Blocks that contradict their config: refused from headers alone, with what was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from families.test_families_checks import fatal, make_source

from kanna.errors import KannaError

Change = Callable[[Any], None]


def config(**values: Any) -> Change:
    """Other values in config.json."""

    def change(source: Any) -> None:
        source.config |= values

    return change


def lost(part: str) -> Change:
    """The first tensor with a part in its name is absent."""

    def change(source: Any) -> None:
        del source.tensors[next(n for n in source.tensors if part in n)]

    return change


def shaped(part: str, *shape: int) -> Change:
    """The first tensor with a part in its name has another shape."""

    def change(source: Any) -> None:
        source.tensors[next(n for n in source.tensors if part in n)].shape = shape

    return change


CASES: dict[str, tuple[str, Change, str]] = {
    "more experts than there are": ("qwen3moe", config(num_experts=8), "experts.4"),
    "fewer experts than there are": ("qwen3moe", config(num_experts=2), "has no place|experts"),
    "no experts": ("qwen3moe", config(num_experts=0), "num_experts = 0"),
    "experts that are no number": ("qwen3moe", config(num_experts="many"), "num_experts"),
    "more used than there are": ("qwen3moe", config(num_experts_per_tok=9), "num_experts_per_tok"),
    "no router": ("qwen3moe", lost("mlp.gate."), "mlp.gate.weight is missing"),
    "a router of others": ("qwen3moe", shaped("mlp.gate.", 3, 64), "[3, 64]"),
    "one expert absent": ("qwen3moe", lost("experts.2.up_proj"), "experts.2.up_proj"),
    "an expert of another width": ("qwen3moe", shaped("experts.1.down_proj", 64, 8), "down_proj"),
    "a shared expert absent": ("qwen2moe", lost("shared_expert.up"), "shared_expert.up_proj"),
    "its gate absent": ("qwen2moe", lost("shared_expert_gate"), "shared_expert_gate"),
    "gates and ups of another width": (
        "granitemoe",
        shaped("input_linear", 8, 6, 64),
        "input_linear|gate_of",
    ),
    "a state's convolution without a bias": (
        "falcon_h1",
        config(mamba_conv_bias=False),
        "mamba_conv_bias = False",
    ),
    "its bias absent": ("falcon_h1", lost("conv1d.bias"), "conv1d.bias is missing"),
    "that of Granite": ("granitehybrid", lost("conv1d.bias"), "conv1d.bias is missing"),
    "that of Nemotron-H": ("nemotron_h", config(use_conv_bias=False), "use_conv_bias = False"),
    "sinks of fewer heads": ("gpt_oss", shaped("sinks", 2), "sinks has shape [2]"),
    "biases of fewer experts": ("gpt_oss", shaped("down_proj_bias", 2, 64), "down_proj_bias"),
    "no bias that chooses": ("lfm2moe", lost("expert_bias"), "expert_bias is missing"),
    "more dense layers than there are": ("lfm2moe", config(num_dense_layers=2), "has no place"),
    "kinds of layers that tensors are not": (
        "lfm2",
        config(layer_types=["conv", "conv"]),
        "has no place|missing",
    ),
    "kinds for more layers": ("lfm2", config(layer_types=["conv"] * 3), "layer_types"),
    "a kind nobody knows": ("qwen35", config(layer_types=["mamba"] * 2), "layer_types"),
    "a convolution of another kernel": ("lfm2", shaped("conv.conv", 64, 1, 5), "conv.conv"),
    "a delta net without its decay": ("qwen35", lost("A_log"), "A_log is missing"),
    "value heads that share unevenly": (
        "qwen35",
        config(linear_num_value_heads=33),
        "33 value heads",
    ),
    "a head announced and absent": ("qwen35", config(mtp_num_hidden_layers=1), "mtp."),
    "announced and absent beside experts": (
        "qwen35moe",
        config(mtp_num_hidden_layers=1),
        "mtp.",
    ),
    "a head announced absurdly": ("qwen35", config(mtp_num_hidden_layers=-1), "mtp_num_hidden"),
    "a state of other heads": ("granitehybrid", shaped("A_log", 3), "A_log has shape [3]"),
    "a state without what it adds": ("granitehybrid", lost("mamba.D"), "mamba.D is missing"),
    "states narrower than the model": ("granitehybrid", config(mamba_d_head=16), "twice"),
    "multipliers that are no numbers": ("falcon_h1", config(key_multiplier="a"), "key_multiplier"),
    "too few multipliers": ("falcon_h1", config(ssm_multipliers=[1.0, 2.0]), "ssm_multipliers"),
    "embeddings per layer of another width": (
        "gemma4",
        config(hidden_size_per_layer_input=8),
        "per_layer",
    ),
    "more experts in one tensor than there are": (
        "llama4",
        config(num_local_experts=8),
        "router|experts",
    ),
    "no router of one of them": ("llama4", lost("feed_forward.router"), "router.weight is missing"),
    "no experts in one tensor": ("llama4", lost("gate_up_proj"), "gate_up_proj"),
    "its gates and ups by rows": (
        "llama4",
        shaped("experts.gate_up_proj", 4, 192, 64),
        "gate_up_proj|ffn_gate_exps|gate_of",
    ),
    "the expert of all tokens absent": ("llama4", lost("shared_expert.up"), "shared_expert.up"),
    "experts in other layers": (
        "llama4",
        config(interleave_moe_layer_step=1),
        "has no place|missing",
    ),
    "experts listed in other layers": ("llama4", config(moe_layers=[0]), "moe_layers = [0]"),
    "experts in layers by words": ("llama4", config(moe_layers="all"), "moe_layers"),
    "a layer that does not turn": ("llama4", config(no_rope_layers=[0, 1]), "no_rope_layers"),
    "layers that turn, too many": ("llama4", config(no_rope_layers=[1] * 3), "no_rope_layers"),
    "chunks in no layer": ("llama4", config(layer_types=["full_attention"] * 2), "layer_types"),
    "chunks of another size": ("llama4", config(attention_chunk_size=4096), "attention_chunk_size"),
    "queries without a norm": ("llama4", config(use_qk_norm=False), "use_qk_norm"),
    "a temperature of another floor": ("llama4", config(floor_scale=4096), "floor_scale"),
    "a table of fewer columns per layer": (
        "gemma3n",
        shaped("embed_tokens_per_layer", 500, 256),
        "embed_tokens_per_layer",
    ),
    "another width per layer": ("gemma3n", config(hidden_size_per_layer_input=128), "per_layer"),
    "streams of another number": ("gemma3n", config(altup_num_inputs=3), "altup_num_inputs"),
    "another active stream": ("gemma3n", config(altup_active_idx=1), "altup_active_idx"),
    "a stream without its projection": (
        "gemma3n",
        lost("altup_projections.1"),
        "altup_projections.1.weight is missing",
    ),
    "a stream too many": (
        "gemma3n",
        lambda s: s.tensors.update(
            {"model.altup_projections.3.weight": s.tensors["model.altup_projections.0.weight"]}
        ),
        "altup_projections.3",
    ),
    "no router of streams": ("gemma3n", lost("altup.modality_router"), "modality_router.weight"),
    "a residual of another rank": ("gemma3n", config(laurel_rank=32), "laurel_rank"),
    "a low-rank matrix of another rank": (
        "gemma3n",
        shaped("laurel.linear_left", 32, 64),
        "laurel",
    ),
    "sparse in other layers": (
        "gemma3n",
        config(activation_sparsity_pattern=[0.0, 0.95]),
        "activation_sparsity_pattern",
    ),
    "sparse in more layers than there are": (
        "gemma3n",
        config(activation_sparsity_pattern=[0.95] * 3),
        "activation_sparsity_pattern",
    ),
    "sparse by words": (
        "gemma3n",
        config(activation_sparsity_pattern=["much", "little"]),
        "activation_sparsity_pattern",
    ),
    "windows elsewhere": (
        "gemma3n",
        config(layer_types=["full_attention", "sliding_attention"]),
        "layer_types",
    ),
    "shared keys before the twentieth layer": (
        "gemma3n",
        config(num_kv_shared_layers=1),
        "num_kv_shared_layers",
    ),
    "layers of several widths": ("gemma3n", config(intermediate_size=[96, 128]), "intermediate"),
    "more shared layers than layers": ("gemma4", config(num_kv_shared_layers=9), "share|shared"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_from_headers(case: str, tmp_path: Any) -> None:
    name, change, match = CASES[case]
    source = make_source(name, tmp_path)
    assert not fatal(source)
    change(source)
    try:
        messages = [f"{p.found} {p.expected} {p.todo}" for p in fatal(source)]
    except KannaError as error:
        messages = [f"{error} {error.expected}"]
    parts = match.split("|")
    assert any(part in message for part in parts for message in messages), messages
