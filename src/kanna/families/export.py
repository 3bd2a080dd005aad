"""From a model with GGUF names back to a Hugging Face folder: config, tensors, tokenizer files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna import tokenizer
from kanna.errors import SourceError, UnsupportedError
from kanna.families import _pooling, _reranker
from kanna.families._bounds import check_stored
from kanna.families._config import Config
from kanna.families._places import part_of, places, split
from kanna.families._registry import family_of_model
from kanna.families._stored_rope import scaling, short
from kanna.families.base import Family
from kanna.families.forms import ColumnOrder, Multiplied, RowOrder, Same
from kanna.families.views import HeadRows
from kanna.formats.views import Renamed, Shifted
from kanna.model import Model, Tensor
from kanna.tokenizer import special_tokens
from kanna.tokenizer.files import TOKENIZER, configured, generation, read, texts_by_id

Get = Callable[..., Any]
COMPUTED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that were made from the config and go back into it."""


def to_hf(
    model: Model, *, stacked: bool = False
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, bytes]]:
    """The model as a Hugging Face folder holds it.

    Args:
        model: The model.
        stacked: Tensors stay grouped as in GGUF, under the names that `hf_names` gives them.

    Returns:
        config.json, tensors by Hugging Face name, and side files (tokenizer, generation config) by
        file name.

    Raises:
        UnsupportedError: An architecture, tensor or tokenizer has no Hugging Face form.
    """
    _, family = family_of_model(model)
    config = hf_config(model)
    if not model.config:  # of a GGUF: its metadata is all there is to build on
        check_stored(model)
    if not family.encodes:
        _reranker.refuse_way_back(model.tensors)
    tensors: dict[str, Tensor] = {}
    given = Config(config, family.defaults)
    for gguf_name, name in hf_names(model).items():
        tensors[name] = _hf_view(model, name, gguf_name, model.tensors[gguf_name], given)
    for block in family.blocks_of(given):
        if block.regrouping is not None and not stacked:
            tensors = block.regrouping.spread(tensors, given)
    files = side_files(model) | _pooling.split_off(tensors)
    files.setdefault("generation_config.json", _json(_generation(model, config)))
    if not model.side_files:
        files |= _pooling.to_hf(model)
    if card := _card(model):
        files["README.md"] = card
    return config, tensors, files


def side_files(model: Model) -> dict[str, bytes]:
    """Tokenizer files: the source's own where it has them, else made from the metadata."""
    if not model.side_files:
        return tokenizer.to_hf(model.metadata)
    own = {name: path.read_bytes() for name, path in model.side_files.items()}
    if TOKENIZER not in own:
        own[TOKENIZER] = tokenizer.made_json(model.side_files, model.metadata)
    return own


def hf_names(model: Model) -> dict[str, str]:
    """Hugging Face's name of every tensor that has one, by its GGUF name."""
    _, family = family_of_model(model)
    where = places(family, Config(hf_config(model), family.defaults))
    modules = {gguf_name: hf_name for hf_name, gguf_name in where.modules.items()}
    tensors = {gguf_name: hf_name for hf_name, gguf_name in where.tensors.items()}
    hf_by_gguf: dict[str, str] = {}
    for gguf_name in model.tensors:
        if gguf_name in COMPUTED:
            continue
        module, kind = split(gguf_name)
        hf_name = tensors.get(gguf_name)
        if hf_name is None and module in modules:
            hf_name = f"{modules[module]}.{kind}"
        if hf_name is None:
            raise UnsupportedError(f"tensor {gguf_name} has no place in {family.architectures[0]}")
        hf_by_gguf[gguf_name] = hf_name
    return hf_by_gguf


def column_order(model: Model, gguf_name: str) -> NDArray[np.int64] | None:
    """Which column of Hugging Face's matrix each one of GGUF's is; None where they are the same."""
    _, family = family_of_model(model)
    form = family.forms.get(part_of(gguf_name))
    if not isinstance(form, ColumnOrder):
        return None
    return form.order(Config(hf_config(model), family.defaults))


def hf_parts(model: Model) -> dict[str, list[tuple[str, int]]]:
    """What every tensor of a checkpoint holds, in order: GGUF name, and which matrix of a stack."""
    _, family = family_of_model(model)
    given = Config(hf_config(model), family.defaults)
    parts: dict[str, list[tuple[str, int]]] = {}
    for gguf_name, hf_name in hf_names(model).items():
        pieces = [hf_name]
        for block in family.blocks:
            if block.regrouping is not None:
                pieces = [p for name in pieces for p in block.regrouping.pieces(name, given)]
        for number, piece in enumerate(pieces):
            parts.setdefault(piece, []).append((gguf_name, number))
    return parts


def head_dim_of(model: Model) -> int:
    """Values of a query or key of one head."""
    heads = model.whole("{arch}.attention.head_count", least=1)
    length = model.whole("{arch}.attention.key_length", 0)
    return length or model.whole("{arch}.embedding_length") // heads


def hf_view(model: Model, gguf_name: str, tensor: Tensor) -> Tensor:
    """`tensor`, rows or values as those of `gguf_name` in GGUF, as Hugging Face stores them.

    Its name stays.
    """
    return _hf_view(model, tensor.name, gguf_name, tensor)


def gguf_view(model: Model, gguf_name: str, tensor: Tensor) -> Tensor:
    """`tensor`, in the row order of Hugging Face, as GGUF stores the matrix `gguf_name`."""
    _, family = family_of_model(model)
    form = family.forms.get(part_of(gguf_name))
    if form is not None and not isinstance(form, Multiplied):  # whose numbers are 1 by now
        return form.to_gguf(gguf_name, tensor, Config(hf_config(model), family.defaults))
    if _interleaves(family, gguf_name):
        return HeadRows(gguf_name, tensor, head_dim_of(model))
    return Renamed(gguf_name, tensor)


def gguf_factors(
    model: Model, gguf_name: str, left: Tensor, right: Tensor
) -> tuple[Tensor, Tensor]:
    """The two factors of a change of a matrix, in the orders that GGUF has its rows and columns.

    Args:
        model: The model that has the matrix.
        gguf_name: Name of the matrix.
        left: [rows, rank], in the order of Hugging Face.
        right: [rank, columns], in the order of Hugging Face.

    Raises:
        UnsupportedError: GGUF has values of another form there.
    """
    _, family = family_of_model(model)
    form = family.forms.get(part_of(gguf_name))
    given = Config(hf_config(model), family.defaults)
    if isinstance(form, RowOrder) and form.there is None:
        left = form.to_gguf(left.name, left, given)
    elif isinstance(form, ColumnOrder):
        right = form.to_gguf(right.name, right, given)
    elif form is not None and not isinstance(form, Same):
        raise UnsupportedError(
            f"{gguf_name} has another form in a GGUF than in Hugging Face",
            expected="a change of a plain matrix",
            todo="merge the adapter: kanna merge SRC ADAPTER -o merged.gguf",
        )
    elif _interleaves(family, gguf_name):
        left = HeadRows(left.name, left, head_dim_of(model))
    return left, right


def _interleaves(family: Family, gguf_name: str) -> bool:
    return family.rotate_half and gguf_name.rpartition(".")[0].endswith((".attn_q", ".attn_k"))


def _hf_view(
    model: Model, name: str, gguf_name: str, tensor: Tensor, given: Config | None = None
) -> Tensor:
    """`tensor`, stored as `gguf_name` is in GGUF, as Hugging Face stores it."""
    _, family = family_of_model(model)
    if (form := family.forms.get(part_of(gguf_name))) is not None:
        return form.to_hf(name, tensor, given or Config(hf_config(model), family.defaults))
    if _interleaves(family, gguf_name):
        return HeadRows(name, tensor, head_dim_of(model), interleave=False)
    if family.norm_offset and part_of(gguf_name).endswith("norm"):
        return Shifted(name, tensor, -family.norm_offset)
    return Renamed(name, tensor)


def hf_config(model: Model) -> dict[str, Any]:
    """config.json in the spelling that transformers 4 and 5 both read. Raises as `to_hf` does."""
    _, family = family_of_model(model)
    if family.whole_config is not None:
        return family.whole_config(model)
    return _decoder_config(model, family)


def _decoder_config(model: Model, family: Family) -> dict[str, Any]:
    meta = model.meta

    def need(key: str) -> Any:
        value = meta(f"{{arch}}.{key}")
        if value is None:
            raise SourceError(
                f"the GGUF has no {model.family}.{key}", todo="it cannot be written as safetensors"
            )
        return value

    def size(key: str) -> int:
        need(key)
        return model.whole(f"{{arch}}.{key}", least=1)

    hidden, heads = size("embedding_length"), size("attention.head_count")
    embedding = model.tensors.get("token_embd.weight")
    if embedding is None:
        raise SourceError("the GGUF has no token_embd.weight", expected="a language model")
    config: dict[str, Any] = {
        "architectures": [family.architectures[0]],
        "model_type": family.model_type,
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "num_hidden_layers": size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _kv_heads(model) or heads,
        "max_position_embeddings": size("context_length"),
        **_epsilon(model),
        "rope_theta": short(
            meta("{arch}.rope.freq_base") or family.defaults.get("rope_theta", 10000.0)
        ),
        "tie_word_embeddings": "output.weight" not in model.tensors,
    }
    if feed := _first(model, "feed_forward_length"):
        config["intermediate_size"] = feed
    if length := model.whole("{arch}.attention.key_length", 0):
        config["head_dim"] = length
    if (activation := family.fixed.get("hidden_act")) is not None:
        config["hidden_act"] = activation[0]
    if family.optional & {"attn_q.bias"}:
        config["attention_bias"] = "blk.0.attn_q.bias" in model.tensors
    if family.optional & {"ffn_up.bias"}:
        config["mlp_bias"] = "blk.0.ffn_up.bias" in model.tensors
    for gguf_name, hf_name in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
        # Written as null where there is none, or transformers takes the family's default.
        config[f"{hf_name}_token_id"] = meta(f"tokenizer.ggml.{gguf_name}_token_id")
    for block in family.blocks:
        config |= block.to_config(model)
    config |= family.to_config(model)
    if "rope_parameters" not in config and (scaled := scaling(model)) is not None:
        config["rope_scaling"] = scaled
    return config


def _epsilon(model: Model) -> dict[str, float]:
    """The epsilon of the norms, by the kind of norm that the file names."""
    for ours, theirs in (("rms_epsilon", "rms_norm_eps"), ("epsilon", "layer_norm_eps")):
        value = model.meta(f"{{arch}}.attention.layer_norm_{ours}")
        if value is not None:
            return {theirs: short(value)}
    raise SourceError(
        f"the GGUF has no {model.family}.attention.layer_norm_rms_epsilon",
        todo="it cannot be written as safetensors",
    )


def _first(model: Model, key: str) -> int:
    """A size of the first layer, of which families know how the others differ; 0: none is given."""
    value = model.meta(f"{{arch}}.{key}")
    if isinstance(value, np.ndarray | list) and len(value):
        return int(value[0])
    return model.whole(f"{{arch}}.{key}", 0)


def _kv_heads(model: Model) -> int:
    """Key-value heads of the layers that have any; 0 where the file does not say."""
    given = model.meta("{arch}.attention.head_count_kv", 0)
    if isinstance(given, np.ndarray | list):
        return next((int(n) for n in given if n), 0)
    return model.whole("{arch}.attention.head_count_kv", 0)


def end_ids(model: Model) -> list[int]:
    """Every id that ends a generation, the tokenizer's own first."""
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    listed = [int(v) for k in keys if (v := model.meta(k)) is not None]
    if not model.side_files:
        return list(dict.fromkeys(listed))
    texts = model.meta("tokenizer.ggml.tokens")
    if texts is None:
        texts = texts_by_id(read(model.side_files, TOKENIZER), None)
    ids = {text: i for i, text in enumerate(texts)}
    configs = [model.config, model.config.get("text_config") or {}]
    configs.append(generation(model.side_files))
    return special_tokens.end_ids(configured(model.side_files), configs, ids.get)


def _generation(model: Model, config: dict[str, Any]) -> dict[str, Any]:
    """generation_config.json from the ids and `general.sampling.*`."""
    values = {k: v for k, v in config.items() if k.endswith("_token_id") and v is not None}
    if len(ends := end_ids(model)) > 1:
        values["eos_token_id"] = ends
    for gguf_name, hf_name in (
        ("temp", "temperature"),
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("penalty_repeat", "repetition_penalty"),
    ):
        if (value := model.meta(f"general.sampling.{gguf_name}")) is not None:
            values[hf_name] = short(value) if isinstance(value, float) else value
            values["do_sample"] = True
    return values


def _card(model: Model) -> bytes:
    """Header of a model card with the licence and origin the GGUF carries.

    Empty when it carries none.
    """
    header: dict[str, Any] = {"model_name": model.meta("general.name", model.name)}
    for gguf_name, hf_name in (
        ("license", "license"),
        ("license.name", "license_name"),
        ("license.link", "license_link"),
        ("languages", "language"),
        ("tags", "tags"),
    ):
        value = model.meta(f"general.{gguf_name}")
        if value is not None:
            header[hf_name] = value if isinstance(value, str) else list(value)
    if len(header) == 1:
        return b""
    # JSON is YAML, so names with colons or quotes in them need no other care.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    return "\n".join(["---", *lines, "---", "", f"# {header['model_name']}", ""]).encode()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
