"""llama.cpp's named mixes of encodings (llama-quant.cpp), as rules over the roles of tensors.

A mix has a base encoding; its rules say which tensors get another one. First match wins.
"""

from __future__ import annotations

from dataclasses import dataclass

from kanna.plan.gguf_conditions import (
    Condition,
    always,
    early,
    early_or_eight_experts,
    early_with_imatrix,
    early_without_imatrix,
    eight_experts,
    few_experts,
    first,
    first_sixteenth,
    middle,
    more_bits,
    shared_heads,
    shared_or_experts,
    without_imatrix,
)

Rule = tuple[str, str, Condition]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A named mix.

    Attributes:
        base: Encoding of every matrix that no rule names.
        file_type: llama.cpp's number for it.
        summary: What it is for.
        output: Encoding of the output tensor.
        low: Whether it is one of the 1- and 2-bit mixes, which treat models of eight experts in
            their own way.
        special: Whether it suits only networks trained for it.
    """

    name: str
    base: str
    file_type: int
    summary: str
    rules: tuple[Rule, ...] = ()
    output: str = "q6_k"
    low: bool = False
    special: bool = False


def _low(v: str, down: str, attn_output: str | None, embedding: str) -> tuple[Rule, ...]:
    """Rules of the 1- and 2-bit mixes."""
    rules: list[Rule] = [
        ("attn_v", "q4_k", shared_or_experts),
        ("attn_v", v, always),
        ("attn_k", "q4_k", eight_experts),
        ("ffn_down", down, early),
        ("attn_output", "q5_k", eight_experts),
        ("embedding", embedding, always),
    ]
    return (*rules, ("attn_output", attn_output, always)) if attn_output else tuple(rules)


_EXPERT_OUTPUT: Rule = ("attn_output", "q5_k", eight_experts)

MIXES = (
    Mix(name="F32", base="f32", file_type=0, summary="reference for measurements", output="f32"),
    Mix(
        name="BF16",
        base="bf16",
        file_type=32,
        summary="the published weights as they are",
        output="bf16",
    ),
    Mix(
        name="F16",
        base="f16",
        file_type=1,
        summary="16-bit for runtimes without bfloat16",
        output="f16",
    ),
    Mix(
        name="Q8_0",
        base="q8_0",
        file_type=7,
        summary="as good as 16-bit at half the size",
        output="q8_0",
    ),
    Mix(name="Q6_K", base="q6_k", file_type=18, summary="quality first on a laptop"),
    Mix(
        name="Q5_K_M",
        base="q5_k",
        file_type=17,
        summary="high quality where Q6_K does not fit",
        rules=(("attn_v", "q6_k", more_bits), ("ffn_down", "q6_k", more_bits)),
    ),
    Mix(name="Q5_K_S", base="q5_k", file_type=16, summary="slightly smaller than Q5_K_M"),
    Mix(
        name="Q5_1", base="q5_1", file_type=9, summary="models whose rows are not multiples of 256"
    ),
    Mix(
        name="Q5_0",
        base="q5_0",
        file_type=8,
        summary="models whose rows are not multiples of 256",
        rules=(("ffn_down", "q5_1", early_with_imatrix),),
    ),
    Mix(
        name="Q4_K_M",
        base="q4_k",
        file_type=15,
        summary="the usual choice: assistants on laptops and phones",
        rules=(("attn_v", "q6_k", more_bits), ("ffn_down", "q6_k", more_bits), _EXPERT_OUTPUT),
    ),
    Mix(
        name="Q4_K_S",
        base="q4_k",
        file_type=14,
        summary="slightly smaller than Q4_K_M",
        rules=(("attn_v", "q5_k", first(4)), ("ffn_down", "q5_k", early), _EXPERT_OUTPUT),
    ),
    Mix(name="Q4_1", base="q4_1", file_type=3, summary="fast on old CPUs, more exact than Q4_0"),
    Mix(
        name="IQ4_NL",
        base="iq4_nl",
        file_type=25,
        summary="4 bits for rows that are not multiples of 256",
        rules=(
            ("attn_v", "q5_k", shared_heads),
            ("ffn_down", "q5_k", early_without_imatrix),
            _EXPERT_OUTPUT,
        ),
    ),
    Mix(
        name="IQ4_XS",
        base="iq4_xs",
        file_type=30,
        summary="the smallest file of good quality",
        rules=(
            ("attn_v", "q5_k", shared_heads),
            ("ffn_down", "q5_k", early_without_imatrix),
            _EXPERT_OUTPUT,
        ),
    ),
    Mix(
        name="Q4_0",
        base="q4_0",
        file_type=2,
        summary="fastest on phones and ARM boards",
        rules=(("ffn_down", "q4_1", early_with_imatrix),),
    ),
    Mix(
        name="MXFP4_MOE",
        base="mxfp4",
        file_type=38,
        summary="mixture-of-experts models trained in MXFP4",
        special=True,
        output="q8_0",
    ),
    Mix(
        name="Q3_K_L",
        base="q3_k",
        file_type=13,
        summary="tight memory, quality before size",
        rules=(
            ("attn_v", "q5_k", always),
            ("ffn_down", "q5_k", always),
            ("attn_output", "q5_k", few_experts),
        ),
    ),
    Mix(
        name="Q3_K_M",
        base="q3_k",
        file_type=12,
        summary="tight memory: 7B models on a Raspberry Pi",
        rules=(
            ("attn_v", "q5_k", first(2)),
            ("attn_v", "q4_k", always),
            ("ffn_down", "q5_k", first_sixteenth),
            ("ffn_down", "q4_k", always),
            _EXPERT_OUTPUT,
            ("attn_output", "q4_k", always),
        ),
    ),
    Mix(
        name="Q3_K_S",
        base="q3_k",
        file_type=11,
        summary="tight memory, size before quality",
        rules=(_EXPERT_OUTPUT,),
    ),
    Mix(
        name="IQ3_M",
        base="iq3_s",
        file_type=27,
        summary="3 bits with an importance matrix, quality first",
        rules=(
            ("attn_v", "q4_k", always),
            ("ffn_down", "q4_k", early_or_eight_experts),
            _EXPERT_OUTPUT,
            ("attn_output", "q4_k", always),
        ),
    ),
    Mix(
        name="IQ3_S",
        base="iq3_s",
        file_type=26,
        summary="3 bits with an importance matrix",
        rules=(("attn_v", "q4_k", shared_heads), _EXPERT_OUTPUT),
    ),
    Mix(
        name="IQ3_XS",
        base="iq3_s",
        file_type=22,
        summary="3 bits with an importance matrix, smaller",
        rules=(
            ("attn_v", "q4_k", shared_heads),
            ("attn_k", "iq3_xxs", always),
            ("attn_q", "iq3_xxs", always),
            ("ffn_gate", "iq3_xxs", middle),
            ("ffn_up", "iq3_xxs", middle),
            _EXPERT_OUTPUT,
        ),
    ),
    Mix(
        name="IQ3_XXS",
        base="iq3_xxs",
        file_type=23,
        summary="the smallest 3-bit file",
        output="q5_k",
        rules=(
            ("embedding", "iq3_s", always),
            ("attn_v", "q4_k", shared_heads),
            ("attn_v", "iq3_s", without_imatrix),
            ("attn_k", "iq2_s", always),
            ("attn_q", "iq2_s", always),
            ("ffn_down", "q4_k", early_without_imatrix),
            ("ffn_down", "q3_k", without_imatrix),
            _EXPERT_OUTPUT,
            ("attn_output", "iq3_s", always),
        ),
    ),
    Mix(
        name="Q2_K",
        base="q2_k",
        file_type=10,
        summary="large models in little memory; small ones suffer",
        rules=(
            ("attn_v", "q4_k", shared_heads),
            ("attn_v", "q3_k", always),
            ("ffn_down", "q3_k", always),
            _EXPERT_OUTPUT,
            ("attn_output", "q3_k", always),
        ),
    ),
    Mix(
        name="Q2_K_S",
        base="q2_k",
        file_type=21,
        summary="smaller than Q2_K, with an importance matrix",
        rules=(("attn_v", "q4_k", shared_heads), ("ffn_down", "q4_k", early)),
    ),
    Mix(
        name="IQ2_M",
        base="iq2_s",
        file_type=29,
        summary="2 bits, for models of 7B and more",
        output="q5_k",
        low=True,
        rules=_low("iq3_s", "iq3_s", "iq3_s", "iq3_s"),
    ),
    Mix(
        name="IQ2_S",
        base="iq2_xs",
        file_type=28,
        summary="2 bits, for models of 13B and more",
        output="q5_k",
        low=True,
        rules=_low("iq3_s", "iq3_s", "iq3_s", "iq3_s"),
    ),
    Mix(
        name="IQ2_XS",
        base="iq2_xs",
        file_type=20,
        summary="2 bits, for models of 30B and more",
        output="q5_k",
        low=True,
        rules=_low("q2_k", "q2_k", None, "q2_k"),
    ),
    Mix(
        name="IQ2_XXS",
        base="iq2_xxs",
        file_type=19,
        summary="2 bits, for models of 70B and more",
        output="q5_k",
        low=True,
        rules=_low("q2_k", "q2_k", None, "q2_k"),
    ),
    Mix(
        name="IQ1_M",
        base="iq1_m",
        file_type=31,
        summary="the last resort for very large models",
        output="q5_k",
        low=True,
        rules=_low("q2_k", "q2_k", "iq2_xxs", "q2_k"),
    ),
    Mix(
        name="IQ1_S",
        base="iq1_s",
        file_type=24,
        summary="the smallest file there is, for experiments",
        output="q5_k",
        low=True,
        rules=_low("q2_k", "q2_k", "iq2_xxs", "q2_k"),
    ),
    Mix(
        name="Q2_0",
        base="q2_0",
        file_type=41,
        summary="networks trained with 2-bit weights",
        special=True,
        rules=(("embedding", "q4_k", always),),
    ),
    Mix(
        name="TQ2_0",
        base="tq2_0",
        file_type=37,
        summary="networks trained with ternary weights, faster",
        special=True,
        rules=(("embedding", "q4_k", always),),
    ),
    Mix(
        name="TQ1_0",
        base="tq1_0",
        file_type=36,
        summary="networks trained with ternary weights, smaller",
        special=True,
        rules=(("embedding", "q4_k", always),),
    ),
    Mix(
        name="Q1_0",
        base="q1_0",
        file_type=40,
        summary="networks trained with 1-bit weights",
        special=True,
    ),
)
