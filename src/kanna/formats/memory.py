"""What a runtime takes beside the weights: key-value cache and buffers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from kanna.formats import vectors
from kanna.formats.process_memory import ProcessMemory
from kanna.model import Model

# llama.cpp computes prompts in batches of 512 tokens, rounds caches up to 256 and keeps them in
# float16.
BATCH, CACHE_STEP, CACHE_BYTES = 512, 256, 2
# What llama.cpp keeps of a token of the vocabulary, in bytes: its text, its score, its place.
TOKEN_BYTES = 256
# Bytes above which llama.cpp leaves a table of embeddings per layer in the file.
LEAST_ON_DEMAND = 4 << 30
CONTEXT = 4096
"""Tokens of context when none are named."""
# Every how many layers one sees the whole context, where the others have a sliding window.
WINDOW_PATTERN = {"gemma2": 2, "gemma3": 6, "llama4": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeMemory:
    """How the memory of a runtime beside the weights is counted.

    Attributes:
        value_bytes: Bytes of a number in its cache, for a model.
        buffers: Bytes of its working buffers, for a model and tokens of context.
        on_demand: Whether it leaves a tensor in the file and reads the rows that are asked for, by
            the tensor's name and bytes.
        drafts: Bytes of its cache of heads for further tokens, which it has beside the other where
            they draft.
        float_value_bytes: Bytes of a number in the cache of an artefact of float32 alone; 0: as of
            others.
        windowed: Whether layers that see a window keep its keys and values alone, not all.
        process: What its process holds beside, for a model.
    """

    value_bytes: Callable[[Model], float]
    buffers: Callable[[Model, int], int]
    on_demand: Callable[[str, int], bool] = lambda _name, _size: False
    drafts: Callable[[Model, int], int] = lambda _model, _context: 0
    float_value_bytes: int = 0
    windowed: bool = True
    process: ProcessMemory = ProcessMemory()

    def cache(self, model: Model, context: int, encodings: Collection[str] = ()) -> int:
        """Bytes of a key-value cache of `context` tokens.

        Args:
            model: Whose shapes count.
            context: Tokens.
            encodings: Of the artefact's tensors.
        """
        floats = self.float_value_bytes if set(encodings) == {"f32"} else 0
        size = floats or self.value_bytes(model)
        return cache_bytes(model, context, size, windowed=self.windowed)


def llama_cache_value(_: Model) -> int:
    """Bytes of a number in llama.cpp's cache."""
    return CACHE_BYTES


def llama_on_demand(name: str, size: int) -> bool:
    """Whether llama.cpp reads rows of a table as they are asked for: of embeddings per layer."""
    return name == "per_layer_token_embd.weight" and size > LEAST_ON_DEMAND


def cache_bytes(
    model: Model, context: int, size: float = CACHE_BYTES, *, windowed: bool = True
) -> int:
    """Bytes of a key-value cache of `context` tokens, `size` bytes a number.

    Shared heads and sliding windows counted.

    The sizes are llama.cpp's; those of other runtimes differ by what one step of 256 tokens takes.
    """
    if vectors.encodes(model):
        return 0
    layers = model.whole("{arch}.block_count", 0) - model.whole("{arch}.nextn_predict_layers", 0)
    layers = max(0, layers)
    heads = model.meta("{arch}.attention.head_count", 0)
    kv_heads = _per_layer(model.meta("{arch}.attention.head_count_kv", heads), layers)
    default = _head_size(model)
    keys = key_length(model)
    values = model.whole("{arch}.attention.value_length", default)
    short_keys = model.whole("{arch}.attention.key_length_swa", keys)
    short_values = model.whole("{arch}.attention.value_length_swa", values)
    window = model.whole("{arch}.attention.sliding_window", 0) if windowed else 0
    full = _up(context, CACHE_STEP)
    short = min(full, _up(window + BATCH, CACHE_STEP))
    total = 0.0
    windows = windowed_layers(model, layers)
    for layer in range(max(0, layers - _shared(model))):
        stateful = _has_state(model, layer)
        if stateful:
            total += _state_bytes(model)
        if stateful and f"blk.{layer}.attn_k.weight" not in model.tensors:
            continue
        if windows[layer] and window:
            total += short * kv_heads[layer] * (short_keys + short_values) * size
        else:
            total += full * kv_heads[layer] * (keys + values) * size
    return math.ceil(total)


def key_length(model: Model) -> int:
    """Numbers of the key of a head."""
    return model.whole("{arch}.attention.key_length", _head_size(model))


def _head_size(model: Model) -> int:
    """Numbers of a head where no key says it."""
    heads = _per_layer(model.meta("{arch}.attention.head_count", 0), 1)[0]
    return model.whole("{arch}.embedding_length", 0) // heads if heads else 0


def draft_cache_bytes(model: Model, context: int) -> int:
    """Bytes of llama.cpp's cache of heads for further tokens, which it has only where they draft.

    Their layers see the whole context.
    """
    heads = model.whole("{arch}.nextn_predict_layers", 0)
    if not heads:
        return 0
    layers = model.whole("{arch}.block_count", 0)
    kv_heads = _per_layer(model.meta("{arch}.attention.head_count_kv", 0), layers)
    widths = sum(model.whole(f"{{arch}}.attention.{k}_length", 0) for k in ("key", "value"))
    return sum(kv_heads[-heads:]) * widths * _up(context, CACHE_STEP) * CACHE_BYTES


def _has_state(model: Model, layer: int) -> bool:
    """Whether a layer keeps a state, with or without keys and values beside it."""
    names = (f"blk.{layer}.{part}.weight" for part in ("ssm_conv1d", "shortconv.conv"))
    return any(name in model.tensors for name in names)


def windowed_layers(model: Model, layers: int) -> list[bool]:
    """Whether each of the first `layers` layers sees a window alone."""
    pattern = model.meta("{arch}.attention.sliding_window_pattern")
    if pattern is None or isinstance(pattern, int):
        period = pattern or WINDOW_PATTERN.get(model.family, 1)
        pattern = [period > 1 and (i + 1) % period != 0 for i in range(layers)]
    return [bool(window) for window in _per_layer(pattern, layers)]


def _shared(model: Model) -> int:
    """Layers at the end that read the keys and values of others."""
    return model.whole("{arch}.attention.shared_kv_layers", 0)


def _state_bytes(model: Model) -> int:
    """Bytes of the state of a layer without attention, in float32, for one text."""
    if kernel := model.whole("{arch}.shortconv.l_cache", 0):
        return 4 * (kernel - 1) * model.whole("{arch}.embedding_length", 0)
    inner = model.whole("{arch}.ssm.inner_size", 0)
    state, groups = (model.whole(f"{{arch}}.ssm.{k}", 0) for k in ("state_size", "group_count"))
    kernel = model.whole("{arch}.ssm.conv_kernel", 1)
    return 4 * (state * inner + (kernel - 1) * (inner + 2 * groups * state))


def buffer_bytes(model: Model, context: int) -> int:
    """Bytes that llama.cpp allocates for working buffers and its vocabulary.

    Activations of one batch and the attention mask, or the logits of that batch where they take
    more: the memory of the layers is free again when they are computed. Of an encoder, activations
    and scores of a whole text.
    """
    return _llama_buffers(model, context, outputs=min(BATCH, context))


def resident_buffer_bytes(model: Model, context: int) -> int:
    """The same of what is in memory, where a prompt's last token alone gets logits.

    So it is while a model writes, in llama-server as in kanna: what is set aside for the logits of
    others is never written to.
    """
    return _llama_buffers(model, context, outputs=1)


def _llama_buffers(model: Model, context: int, *, outputs: int) -> int:
    hidden = model.whole("{arch}.embedding_length", 0)
    if vectors.encodes(model):  # a text is read at once, and no token is predicted
        return 4 * context * (3 * hidden + 2 * feed_forward(model) + context)
    batch, full = min(BATCH, context), _up(context, CACHE_STEP)
    window = model.whole("{arch}.attention.sliding_window", 0)
    short = min(full, _up(window + BATCH, CACHE_STEP)) if window else 0
    masks = 2 * batch * (full + short)
    widest = max(_feed_forward_width(model), _state_width(model))
    layers = masks + 4 * batch * (4 * hidden + widest + 2 * _per_layer_inputs(model))
    logits = 4 * outputs * vocabulary(model) + 4 * 3 * batch * hidden
    return max(layers, logits) + TOKEN_BYTES * vocabulary(model)


def _feed_forward_width(model: Model) -> int:
    """Numbers that a feed-forward part keeps of a token: gates, ups and their products.

    Of experts, those of all that a token is sent to, and what they give, with its weights and
    without.
    """
    used = model.whole("{arch}.expert_used_count", 0)
    one = model.whole("{arch}.expert_feed_forward_length", 0)
    hidden = model.whole("{arch}.embedding_length", 0)
    return max(3 * feed_forward(model), used * (3 * one if one > hidden else 2 * hidden))


def _state_width(model: Model) -> int:
    """Numbers that a layer with a state of Mamba 2 keeps of a token, its share of states included.

    Of a delta net it is more than there are, and less than its logits take.
    """
    if not any(_has_state(model, i) for i in range(model.whole("{arch}.block_count", 0))):
        return 0
    inner, state, groups = (
        model.whole(f"{{arch}}.ssm.{k}", 0) for k in ("inner_size", "state_size", "group_count")
    )
    return 5 * inner + 2 * inner * state // BATCH + 6 * groups * state


def _per_layer_inputs(model: Model) -> int:
    """Numbers that all layers together read of their own of a token."""
    width = model.whole("{arch}.embedding_length_per_layer_input", 0)
    return width * model.whole("{arch}.block_count", 0)


def step_buffers(value_bytes: Callable[[Model], int]) -> Callable[[Model, int], int]:
    """Buffers of a runtime that reads prompts in steps of 512 tokens, as kanna's engines do.

    Activations and scores of attention of one step, and logits of its last token.

    Args:
        value_bytes: Of an activation.
    """

    def buffers(model: Model, context: int) -> int:
        hidden = model.whole("{arch}.embedding_length", 0)
        heads = _per_layer(model.meta("{arch}.attention.head_count", 0), 1)[0]
        tokens = min(BATCH, context)
        activations = tokens * (3 * hidden + 2 * feed_forward(model)) + heads * tokens * context
        logits = 0 if vectors.encodes(model) else 4 * vocabulary(model)
        return int(value_bytes(model) * activations + logits)

    return buffers


def feed_forward(model: Model) -> int:
    """Width of the widest feed-forward block."""
    return max(_per_layer(model.meta("{arch}.feed_forward_length", 0), 1))


def vocabulary(model: Model) -> int:
    """Rows of the logits."""
    embedding = model.tensors.get("token_embd.weight")
    return embedding.shape[0] if embedding is not None else model.whole("{arch}.vocab_size", 0)


def _per_layer(value: Any, layers: int) -> list[int]:
    """A number per layer; most models have one for all of them."""
    if isinstance(value, (int, float)):
        return [int(value)] * max(1, layers)
    values = [int(v) for v in value]
    return values + [values[-1] if values else 0] * (layers - len(values))


def _up(size: int, step: int) -> int:
    return -(-size // step) * step
