"""Models that are known here and that no family is for: what they are, and what to use instead.

A family that names the same architecture goes before: see `_registry.family_of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOWHERE = "no stock runtime has it: neither llama.cpp nor onnxruntime-genai nor mlx-lm"
MLX_ALONE = "of the stock runtimes mlx-lm alone has it, and kanna has no family for it"
TWO_NETWORKS = "one network reads and another writes, and kanna converts those that do both in one"
SPEECH = "it reads or writes speech, and kanna converts models of text"
DENOISES = "it fills in masked tokens in any order, and kanna converts models that write the next"
DRAFTS = "it drafts tokens for another model and reads that model's states"
_LISTED = "use a model of a family that docs/families.md lists"
_BY_MLX = "use `mlx_lm.convert`, or a model of a family that docs/families.md lists"
_A_GGUF = (
    "give a GGUF of it that others published (org/name:Q8_0): kanna requantizes, verifies, "
    "measures and serves a GGUF of any architecture"
)
_DECODER = "use a model that predicts the next token, such as Qwen3, Gemma 3 or LFM2"


@dataclass(frozen=True, slots=True)
class Other:
    """Models of an architecture that no family is for.

    Attributes:
        title: What they are called.
        classes: Names of architectures in config.json.
        model_types: What config.json calls them.
        reason: Why none is for them.
        instead: What to do.
        llama_arch: What llama.cpp calls the architecture; "" where it has none.
    """

    title: str
    classes: tuple[str, ...]
    model_types: tuple[str, ...]
    reason: str
    instead: str = _LISTED
    llama_arch: str = ""

    @property
    def runs_somewhere(self) -> bool:
        """Whether a stock runtime computes it, though no family here is for it."""
        return bool(self.llama_arch) or self.reason == MLX_ALONE


def _in_llamacpp(title: str, classes: str, model_types: str, arch: str) -> Other:
    reason = f"llama.cpp has it ({arch}), and kanna does not write it from a checkpoint yet"
    return Other(title, tuple(classes.split()), tuple(model_types.split()), reason, _A_GGUF, arch)


def _other(title: str, classes: str, model_types: str, reason: str, instead: str = "") -> Other:
    usual = _BY_MLX if reason == MLX_ALONE else _LISTED
    names = tuple(classes.split()), tuple(model_types.split())
    return Other(title, *names, reason, instead or usual)


OTHERS: tuple[Other, ...] = (
    _other(
        "LFM3",
        "Lfm3ForCausalLM Lfm3VlForConditionalGeneration Lfm3Model",
        "lfm3 lfm3_vl",
        NOWHERE,
        "use LFM2.5 (LiquidAI/LFM2.5-1.2B-Instruct), of the family lfm2",
    ),
    _other(
        "EmbeddingGemma 2",
        "EmbeddingGemma2Model EmbeddingGemma2TextModel",
        "embedding_gemma2 embedding_gemma2_text",
        "no stock runtime has it: llama.cpp's gemma-embedding is the first EmbeddingGemma",
        "use google/embeddinggemma-300m or Qwen/Qwen3-Embedding-0.6B",
    ),
    _other("VaultGemma", "VaultGemmaForCausalLM", "vaultgemma", NOWHERE),
    _other("Zamba and Zamba 2", "ZambaForCausalLM Zamba2ForCausalLM", "zamba zamba2", NOWHERE),
    _other("Zaya", "ZayaForCausalLM", "zaya", NOWHERE),
    _other("xLSTM", "xLSTMForCausalLM", "xlstm", NOWHERE),
    _other("JetMoE", "JetMoeForCausalLM", "jetmoe", NOWHERE),
    _other("Doge", "DogeForCausalLM", "doge", NOWHERE),
    _other("FlexOlmo", "FlexOlmoForCausalLM", "flex_olmo", NOWHERE),
    _other("HyperCLOVA X", "HyperCLOVAXForCausalLM", "hyperclovax", NOWHERE),
    _other("OPT", "OPTForCausalLM", "opt", NOWHERE),
    _other("GPT-Neo", "GPTNeoForCausalLM", "gpt_neo", NOWHERE),
    _other("CodeGen", "CodeGenForCausalLM", "codegen", NOWHERE),
    _other("XGLM", "XGLMForCausalLM", "xglm", NOWHERE),
    _other("BLT", "BltForCausalLM", "blt", NOWHERE),
    _other("RecurrentGemma", "RecurrentGemmaForCausalLM", "recurrent_gemma", MLX_ALONE),
    _other("Helium", "HeliumForCausalLM", "helium", MLX_ALONE),
    _other("nanochat", "NanoChatForCausalLM", "nanochat", MLX_ALONE),
    _other("OLMo Hybrid", "OlmoHybridForCausalLM", "olmo_hybrid", MLX_ALONE),
    _other("LongCat Flash", "LongcatFlashForCausalLM", "longcat_flash", MLX_ALONE),
    _other(
        "T5, BART, Marian and other models of two networks",
        "T5ForConditionalGeneration MT5ForConditionalGeneration UMT5ForConditionalGeneration "
        "T5GemmaForConditionalGeneration T5Gemma2ForConditionalGeneration "
        "BartForConditionalGeneration MBartForConditionalGeneration MarianMTModel "
        "PegasusForConditionalGeneration M2M100ForConditionalGeneration",
        "t5 mt5 umt5 t5gemma t5gemma2 bart mbart marian pegasus m2m_100",
        TWO_NETWORKS,
        _DECODER,
    ),
    _other(
        "Whisper, Moonshine and other models of speech",
        "WhisperForConditionalGeneration MoonshineForConditionalGeneration "
        "VoxtralForConditionalGeneration Qwen3ASRForConditionalGeneration "
        "Qwen2AudioForConditionalGeneration ParakeetForCTC",
        "whisper moonshine voxtral qwen3_asr qwen2_audio parakeet_ctc",
        SPEECH,
        "use whisper.cpp or the runtime that its publisher names",
    ),
    _other(
        "LLaDA, Dream and other diffusion models of text",
        "LLaDAModelLM LLaDAMoEModelLM DreamModel RND1 DiffusionGemmaForBlockDiffusion",
        "llada llada_moe Dream diffusion_gemma",
        DENOISES,
        _DECODER,
    ),
    _other(
        "Gemma 4's drafter",
        "Gemma4AssistantForCausalLM Gemma4UnifiedAssistantForCausalLM",
        "gemma4_assistant gemma4_unified_assistant",
        DRAFTS,
        "convert Gemma 4 itself, and give llama-server a published GGUF of its drafter",
    ),
    _in_llamacpp("Gemma 1", "GemmaForCausalLM", "gemma", "gemma"),
    _in_llamacpp(
        "DeepSeek V2, V3, R1 and kin",
        "DeepseekV2ForCausalLM DeepseekV3ForCausalLM Kimi_K25ForConditionalGeneration "
        "Glm4MoeLiteForCausalLM YoutuForCausalLM",
        "deepseek_v2 deepseek_v3 kimi_k25 glm4_moe_lite youtu",
        "deepseek2",
    ),
    _in_llamacpp("DeepSeek V3.2", "DeepseekV32ForCausalLM", "deepseek_v32", "deepseek32"),
    _in_llamacpp("DeepSeek V4", "DeepseekV4ForCausalLM", "deepseek_v4", "deepseek4"),
    Other(
        "Phi-3.5-MoE, Phi-mini-MoE and Phi-tiny-MoE",
        ("PhiMoEForCausalLM", "PhimoeForCausalLM"),
        ("phimoe",),
        "llama.cpp (phimoe) takes its layer norms for RMS norms, and weights of two experts that "
        "add up to one where the model (SparseMixer) gives each nearly one: a tiny one is 0.18 "
        "nats away, and 2e-13 from transformers with both changed",
        "use `mlx_lm.convert`: mlx-lm routes and normalizes as the model was published",
        "phimoe",
    ),
    _in_llamacpp("Qwen3-Next", "Qwen3NextForCausalLM", "qwen3_next", "qwen3next"),
    _in_llamacpp(
        "Qwen3.8-Flash-Next",
        "Qwen4ExpForCausalLM Qwen4ExpForConditionalGeneration",
        "qwen4_exp qwen4_exp_text",
        "qwen4exp",
    ),
    _in_llamacpp("GLM-4 (dense)", "Glm4ForCausalLM", "glm4", "glm4"),
    _in_llamacpp("GLM-4.5 to 4.7", "Glm4MoeForCausalLM", "glm4_moe", "glm4moe"),
    _in_llamacpp("GLM-5", "GlmMoeDsaForCausalLM", "glm_moe_dsa", "glm-dsa"),
    _in_llamacpp(
        "Muse Glimmer", "MuseGlimmerForConditionalGeneration", "muse_glimmer", "muse_glimmer"
    ),
    _in_llamacpp("Command R", "CohereForCausalLM", "cohere", "command-r"),
    _in_llamacpp("Command R7B and A", "Cohere2ForCausalLM", "cohere2", "cohere2"),
    _in_llamacpp("Falcon 7B and 40B", "FalconForCausalLM RWForCausalLM", "falcon", "falcon"),
    _in_llamacpp(
        "Mamba and Falcon Mamba",
        "MambaForCausalLM FalconMambaForCausalLM",
        "mamba falcon_mamba",
        "mamba",
    ),
    _in_llamacpp("Mamba 2", "Mamba2ForCausalLM", "mamba2", "mamba2"),
    _in_llamacpp("Jamba", "JambaForCausalLM", "jamba", "jamba"),
    _in_llamacpp("Kimi Linear", "KimiLinearForCausalLM", "kimi_linear", "kimi-linear"),
    _in_llamacpp("MiniCPM 3", "MiniCPM3ForCausalLM", "minicpm3", "minicpm3"),
    _in_llamacpp("MiniCPM 1 and 2", "MiniCPMForCausalLM", "minicpm", "minicpm"),
    _in_llamacpp("MiniMax M2", "MiniMaxM2ForCausalLM", "minimax_m2", "minimax-m2"),
    _in_llamacpp(
        "Hunyuan with experts", "HunYuanMoEV1ForCausalLM", "hunyuan_v1_moe", "hunyuan-moe"
    ),
    _in_llamacpp(
        "ERNIE 4.5 with experts", "Ernie4_5_MoeForCausalLM", "ernie4_5_moe", "ernie4_5-moe"
    ),
    _in_llamacpp("EXAONE 3.5", "ExaoneForCausalLM", "exaone", "exaone"),
    _in_llamacpp("Seed-OSS", "SeedOssForCausalLM", "seed_oss", "seed_oss"),
    _in_llamacpp("Apertus", "ApertusForCausalLM", "apertus", "apertus"),
    _in_llamacpp("AFM (Arcee)", "ArceeForCausalLM", "arcee", "arcee"),
    _in_llamacpp("Mellum 2", "MellumForCausalLM", "mellum", "mellum"),
    _in_llamacpp("InternLM 2", "InternLM2ForCausalLM", "internlm2", "internlm2"),
    _in_llamacpp(
        "Nemotron 3 and 4 (dense, Minitron)", "NemotronForCausalLM", "nemotron", "nemotron"
    ),
    _in_llamacpp("OLMo 1", "OlmoForCausalLM", "olmo", "olmo"),
    _in_llamacpp("StarCoder 2", "Starcoder2ForCausalLM", "starcoder2", "starcoder2"),
    _in_llamacpp("SmallThinker", "SmallThinkerForCausalLM", "smallthinker", "smallthinker"),
    _in_llamacpp("BitNet", "BitNetForCausalLM BitnetForCausalLM", "bitnet", "bitnet"),
    _in_llamacpp("Bloom", "BloomForCausalLM", "bloom", "bloom"),
    _in_llamacpp("GPT-2", "GPT2LMHeadModel", "gpt2", "gpt2"),
    _in_llamacpp("GPT-NeoX and Pythia", "GPTNeoXForCausalLM", "gpt_neox", "gptneox"),
    _in_llamacpp("RWKV 7", "RWKV7ForCausalLM Rwkv7ForCausalLM", "rwkv7", "rwkv7"),
    _in_llamacpp("RWKV 6", "Rwkv6ForCausalLM", "rwkv6", "rwkv6"),
)


def other_of(config: Mapping[str, Any], classes: list[str]) -> Other | None:
    """The entry of a config.json, by its architecture class, else by its model type.

    Args:
        config: The object.
        classes: Its architecture classes.
    """
    named = next((o for o in OTHERS if any(c in o.classes for c in classes)), None)
    if named is not None or classes:
        return named
    return next((o for o in OTHERS if config.get("model_type") in o.model_types), None)
