"""Fields of tokenizer_config.json and generation_config.json."""

from __future__ import annotations

from typing import Any

from kanna.tokenizer import templates
from kanna.tokenizer.fields.base import Fate, Field, Parts, carried, neutral, short, unless
from kanna.tokenizer.fields.normalizers import normalization
from kanna.tokenizer.special_tokens import text_of


def _template(value: Any, parts: Parts) -> tuple[Fate, str]:
    named = templates.named(value)
    if named and templates.DEFAULT in named:
        return Fate.CARRIED, ""
    if not value:
        return Fate.NEUTRAL, ""
    if named:
        return Fate.NOTED, (
            f"the chat templates {', '.join(named)} are carried, but none is the default: "
            "llama.cpp takes a template of its own"
        )
    return Fate.NOTED, f"chat_template is neither text nor named texts: {short(value)} is lost"


def _added(value: Any, parts: Parts) -> tuple[Fate, str]:
    """Tokens that transformers adds to what tokenizer.json has."""
    if not isinstance(value, dict) or not parts.tokenizer:
        return Fate.CARRIED, ""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")

    def seen(token: Any) -> tuple[Any, ...]:
        return (text_of(token), *(bool(token.get(f)) for f in flags))

    own = {int(a["id"]): seen(a) for a in parts.tokenizer.get("added_tokens") or []}
    vocab = parts.ids
    other = [
        str(text_of(token))
        for i, token in value.items()
        if isinstance(token, dict)
        and own.get(int(i)) != seen(token)
        and vocab.get(text_of(token) or "") != int(i)
    ]
    if not other:
        return Fate.CARRIED, ""
    return Fate.NOTED, (
        f"tokenizer_config.json and tokenizer.json say different things of {', '.join(other[:4])}: "
        "the GGUF has what tokenizer.json says"
    )


def _listed(value: Any, parts: Parts) -> tuple[Fate, str]:
    """Special tokens: carried where they are tokens of tokenizer.json."""
    if isinstance(value, str) or (isinstance(value, dict) and "content" in value):
        value = [value]
    entries = list(value.values()) if isinstance(value, dict) else value or []
    texts = [t for t in map(text_of, entries) if t]
    own = {a.get("content") for a in parts.tokenizer.get("added_tokens") or []}
    ids = parts.ids
    absent = [t for t in texts if t not in own and t not in ids]
    if not absent or not parts.tokenizer:
        return Fate.CARRIED, ""
    return Fate.NOTED, (
        f"tokenizer_config.json names {', '.join(absent[:4])}, which tokenizer.json does not have: "
        "transformers adds them, the GGUF does not"
    )


def _remote(value: Any, parts: Parts) -> tuple[Fate, str]:
    if not value or "AutoTokenizer" not in value:
        return Fate.NEUTRAL, ""
    return Fate.NOTED, (
        "the tokenizer has code of its own (auto_map), which kanna does not run: the GGUF has what "
        "its files say"
    )


_EITHER = "tokenizer_config.json has {name} = {}: transformers does so, llama.cpp does not"


def _small(value: Any, parts: Parts) -> tuple[Fate, str]:
    return _of_normalizer("do_lower_case", value, parts, 0)


def _plain_letters(value: Any, parts: Parts) -> tuple[Fate, str]:
    return _of_normalizer("strip_accents", value, parts, 1)


def _of_normalizer(name: str, value: Any, parts: Parts, place: int) -> tuple[Fate, str]:
    """A setting that the normalizer of WordPiece has too: that one counts."""
    own = normalization(parts.tokenizer)[place] if parts.words else False
    if value is None or value is own:
        return Fate.CARRIED if parts.words else Fate.NEUTRAL, ""
    if not parts.words:
        return Fate.NOTED, _EITHER.replace("{name}", name).replace("{}", short(value))
    return Fate.NOTED, (
        f"tokenizer_config.json has {name} = {short(value)}, and the normalizer of tokenizer.json "
        "does otherwise: the GGUF has what tokenizer.json says"
    )


def _option(name: str, *values: Any) -> Field:
    return unless(name, values, _EITHER.replace("{name}", name))


TOKENIZER_CONFIG = (
    *(
        Field(
            name=f"{name}_token",
            how=f"`{key}_token_id`; a token that is none of tokenizer.json is named in a note",
            judge=_listed,
        )
        for name, key in (
            ("bos", "bos"),
            ("eos", "eos"),
            ("unk", "unknown"),
            ("sep", "seperator"),
            ("pad", "padding"),
            ("mask", "mask"),
        )
    ),
    neutral("cls_token", "the post-processor names it where texts begin with it"),
    carried("add_bos_token", "`add_bos_token`, where no post-processor decides"),
    carried("add_eos_token", "`add_eos_token`, where no post-processor decides"),
    Field(name="chat_template", how="`tokenizer.chat_template`, others by name", judge=_template),
    Field(name="added_tokens_decoder", how="`tokens`, `token_type`", judge=_added),
    Field(name="additional_special_tokens", how="`tokens`, `token_type`", judge=_listed),
    Field(name="extra_special_tokens", how="`tokens`, `token_type`", judge=_listed),
    Field(name="auto_map", how="code of a tokenizer is named in a note", judge=_remote),
    _option("split_special_tokens", False),
    Field(
        name="do_lower_case",
        how="of WordPiece, as its normalizer has it; else changes nothing at null, false",
        judge=_small,
    ),
    _option("do_lowercase_and_remove_accent", False),
    Field(
        name="strip_accents",
        how="of WordPiece, as its normalizer has it; else changes nothing at null, false",
        judge=_plain_letters,
    ),
    _option("keep_accents", True),
    _option("sp_model_kwargs", {}),
    _option("add_prefix_space", False, True),
    *(
        neutral(name, why)
        for why, names in {
            "what it says is in tokenizer.json": (
                "legacy from_slow tokenizer_class tokenizer_file vocab_file merges_file "
                "tokenizer_object add_dummy_prefix_space trim_offsets use_regex "
                "tokenize_chinese_chars do_basic_tokenize never_split wordpieces_prefix"
            ),
            "decoding for readers alone; ids stay": (
                "clean_up_tokenization_spaces spaces_between_special_tokens errors"
            ),
            "a setting of batches": (
                "model_max_length max_length padding_side truncation_side pad_to_multiple_of "
                "pad_token_type_id stride truncation_strategy truncation padding"
            ),
            "of Python objects": (
                "model_input_names processor_class name_or_path special_tokens_map_file backend "
                "is_local local_files_only device_map _commit_hash fix_mistral_regex "
                "return_token_type_ids verbose init_inputs transformers_version"
            ),
            "of pictures and sounds, or of what reads answers": (
                "image_token boi_token eoi_token video_token audio_token boa_token eoa_token "
                "vision_bos_token vision_eos_token image_token_id max_image_size "
                "min_pixels max_pixels response_schema response_template tool_parser_type "
                "model_specific_special_tokens chat_control_tokens use_default_system_prompt"
            ),
        }.items()
        for name in names.split()
    ),
)
_SAMPLED = (
    "temperature top_k top_p min_p repetition_penalty sequence xtc_probability xtc_threshold "
    "penalty_last_n penalty_repeat mirostat mirostat_tau mirostat_eta"
)
_SAMPLING = "generation_config.json has {name} = {}, which a GGUF has no place for"


def _generation(name: str, *values: Any) -> Field:
    return unless(name, values, _SAMPLING.replace("{name}", name))


GENERATION_CONFIG = (
    *(carried(f"{name}_token_id", f"`{name}_token_id`") for name in ("bos", "pad")),
    carried("eos_token_id", "`eos_token_id`, `eot_token_id`, `eom_token_id`: three at most"),
    carried("suppress_tokens", "`tokenizer.ggml.suppress_tokens`"),
    *(carried(name, "`general.sampling.*`") for name in _SAMPLED.split()),
    _generation("stop_strings", []),
    _generation("num_beams", 1),
    _generation("num_beam_groups", 1),
    _generation("no_repeat_ngram_size", 0),
    _generation("bad_words_ids", []),
    _generation("typical_p", 1.0, 1),
    _generation("epsilon_cutoff", 0.0, 0),
    _generation("eta_cutoff", 0.0, 0),
    _generation("top_h"),
    _generation("penalty_alpha", 0.0, 0),
    _generation("guidance_scale", 1.0, 1),
    _generation("forced_bos_token_id"),
    _generation("forced_eos_token_id"),
    _generation("force_words_ids", []),
    _generation("constraints", []),
    _generation("begin_suppress_tokens", []),
    _generation("sequence_bias", {}),
    _generation("exponential_decay_length_penalty"),
    _generation("encoder_repetition_penalty", 1.0, 1),
    _generation("diversity_penalty", 0.0, 0),
    _generation("dola_layers"),
    _generation("min_length", 0),
    _generation("min_new_tokens", 0),
    _generation("watermarking_config"),
    _generation("token_healing", False),
    *(
        neutral(name, why)
        for why, names in {
            "a limit that who asks sets": "max_length max_new_tokens max_time",
            "temperature and top_k say it": "do_sample",
            "of beams, which are off": "early_stopping length_penalty",
            "of memory and speed": (
                "use_cache cache_implementation cache_config max_cache_len low_memory "
                "compile_config disable_compile continuous_batching_config prefill_chunk_size "
                "use_mtp is_assistant num_assistant_tokens num_assistant_tokens_schedule "
                "assistant_confidence_threshold assistant_early_exit assistant_lookbehind "
                "assistant_ensemble_weight prompt_lookup_num_tokens max_matching_ngram_size "
                "target_lookbehind speculation_type"
            ),
            "of Python objects": (
                "num_return_sequences output_attentions output_hidden_states output_scores "
                "output_logits return_dict_in_generate renormalize_logits remove_invalid_values "
                "_from_model_config transformers_version trust_remote_code"
            ),
            "of models with an encoder": "decoder_start_token_id encoder_no_repeat_ngram_size",
        }.items()
        for name in names.split()
    ),
)
