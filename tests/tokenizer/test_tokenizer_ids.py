"""Token ids of real tokenizers.

Stock llama.cpp with our metadata against the Hugging Face tokenizer.

Every text must give the same ids, except where llama.cpp itself is known to differ; those texts are
listed per tokenizer with the reason, and must indeed differ (so that the list stays true).
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from helpers import needs
from helpers.tokenizing import folder_source, llama_tokenizer

from kanna import tokenizer
from kanna.errors import MissingError
from kanna.formats import gguf
from kanna.model import string
from kanna.sources import packages

needs.llama_cpp()

TEXTS = {
    "english": (
        "Hello, world! It's what we've wanted; I'LL say \"no\" — don't you think? "
        "He'd, she'S, they'RE."
    ),
    "numbers": "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 1,000,000 and 3.14159",
    "python": (
        'def main(a: list[str]) -> int:\n    """Doc."""\n\tfor i in range(10):\n'
        '\t\tprint(f"{i:>4}\\t{i}")\n\n\n'
    ),
    "c": (
        "#include <stdio.h>\nint main(void) { for (int i = 0; i < 10; ++i) "
        '{ printf("%d\\n", i); } return 0; }'
    ),
    "sql": "SELECT * FROM t WHERE a >= 10 AND b <> 'x'; -- comment",
    "json": '{"key": [1, 2.5, null, true], "nested": {"a": "b\\n"}}',
    "html": '<html><body class="x">&nbsp;</body></html> <b>bold</b> <i>it</i>',
    "french": "Bonjour à tous, ça va très bien ! Être ou ne pas être, œuvre, naïve, Noël.",
    "german": "Größenwahn, Straße, Äpfel und Öl; übermäßig.",
    "spanish": "¿Dónde está la biblioteca? ¡Mañana será otro día!",
    "vietnamese": "Xin chào thế giới! Hôm nay trời đẹp quá.",
    "russian": "Привет, мир! Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "bulgarian": "нещо на Български ПриветМир ЩеСеВидим",
    "greek": "Γειά σου Κόσμε! Τι κάνεις;",
    "chinese": "你好，世界！我想在apple工作1314151天～ 今天天气很好。",
    "japanese": "こんにちは世界。吾輩は猫である。名前はまだ無い。カタカナとひらがな",
    "korean": "안녕하세요 세계! 오늘은 날씨가 좋습니다.",
    "arabic": "مرحبا بالعالم! كيف حالك اليوم؟",
    "hebrew": "שלום עולם! מה שלומך היום?",
    "hindi": "नमस्ते दुनिया! आप कैसे हैं?",
    "thai": "สวัสดีชาวโลก วันนี้อากาศดี",
    "khmer": "កាន់តែពិសេសអាច",
    "emoji": "🙂🚀 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇯🇵 ✅ 😶‍🌫️",
    "spaces": "  leading   and    inner     spaces and trailing   ",
    "lines": "tabs\tand\t\tdouble\nnew\nlines\n\n\nmany\n\n\n\n\nfour\r\nCRLF\r\n\r\nend\n",
    "path": r"https://example.com/path?query=1&x=%20#frag user@example.com C:\Users\name\file.txt",
    "maths": "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β = ¬(¬α ∨ β), ∑_{i=1}^{n} i² ≈ ½ ①②③ Ⅷ ٣٤٥ १२३",
    "cases": "CamelCaseWords snake_case_words SCREAMING_CASE kebab-case XMLHttpRequest iPhone15Pro",
    "marks": "'''''''```````\"\"\"\"......!!!!!!?????? ------=======",
    "widths": "ﬁ ﬂ Ａｂｃ ﷽ zero\u200bwidth\u00a0nbsp\u3000ideographic",
    "decomposed": "e\u0301 n\u0303 cafe\u0301",
    "empty": "",
    "one": "a",
}

# Why llama.cpp differs, by text. Nothing in the file can change these.
MARKS = "llama.cpp's pattern for this pre-tokenizer leaves combining marks (\\p{M}) out of words"
NORMAL = "llama.cpp does not compose characters (the tokenizer's NFC normalizer)"
DEVIATIONS: dict[str, dict[str, str]] = {
    "mistral_nemo": {"hindi": MARKS, "thai": MARKS},
    "gpt4o": {"hindi": MARKS, "thai": MARKS, "khmer": MARKS},
    "gptoss": {"hindi": MARKS, "thai": MARKS, "khmer": MARKS},
    "qwen2_5": {"decomposed": NORMAL},
    "qwen3": {"decomposed": NORMAL},
}
NAMES = [
    "llama2",
    "llama3",
    "llama3_2",
    "mistral_nemo",
    "qwen2_5",
    "qwen3",
    "gemma2",
    "gemma3",
    "gpt4o",
    "gptoss",
    "deepseek_v3",
    "llama3_1",
]
PRE = {
    "llama2": "default",
    "llama3": "llama-bpe",
    "llama3_2": "llama-bpe",
    "mistral_nemo": "tekken",
    "qwen2_5": "qwen2",
    "qwen3": "qwen2",
    "gemma2": "default",
    "gemma3": "default",
    "gpt4o": "gpt-4o",
    "gptoss": "gpt-4o",
    "deepseek_v3": "deepseek-v3",
    "llama3_1": "llama-bpe",
}


def write_vocab(folder: Path, path: Path) -> dict[str, Any]:
    metadata = tokenizer.metadata(folder_source(folder))
    named = {"general.architecture": string("llama"), "general.name": string("vocabulary")}
    gguf.write(path, metadata=named | metadata, tensors=[])
    return metadata


@pytest.mark.parametrize("name", NAMES)
def test_ids_equal_the_hugging_face_tokenizers(name: str, tmp_path: Path) -> None:
    import tokenizers

    try:
        folder = packages.tokenizer(name)
    except MissingError as error:
        pytest.skip(str(error))
    metadata = write_vocab(folder, tmp_path / "vocab.gguf")
    assert metadata["tokenizer.ggml.pre"].value == PRE[name]
    ours = llama_tokenizer(tmp_path / "vocab.gguf")
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    known = DEVIATIONS.get(name, {})
    texts = TEXTS | framed(metadata)
    differing = {key for key, text in texts.items() if ours(text) != reference.encode(text).ids}
    assert differing == set(known), differing


def framed(metadata: dict[str, Any]) -> dict[str, str]:
    """Texts with the tokenizer's own control tokens in them."""
    tokens, types = (
        metadata["tokenizer.ggml.tokens"].value,
        metadata["tokenizer.ggml.token_type"].value,
    )
    control = [
        t
        for t, kind in zip(tokens, types, strict=True)
        if kind == 3 and not t.startswith("<unused")
    ][:24]
    return {f"special {t}": f"{t}user\nHi there{t}\n{t}" for t in control}


def test_deviations_are_what_they_are_said_to_be() -> None:
    for texts in DEVIATIONS.values():
        for key, reason in texts.items():
            text = TEXTS[key]
            if reason is NORMAL:
                assert unicodedata.normalize("NFC", text) != text
            if reason is MARKS:
                assert any(unicodedata.category(c).startswith("M") for c in text)


@pytest.mark.parametrize("name", ["llama2", "llama3", "mistral_nemo", "qwen2_5", "gpt4o"])
def test_ids_survive_the_way_back(name: str) -> None:
    """tokenizer.json → GGUF metadata → tokenizer.json gives the same ids for every text."""
    import tokenizers

    try:
        folder = packages.tokenizer(name)
    except MissingError as error:
        pytest.skip(str(error))
    metadata = tokenizer.metadata(folder_source(folder))
    back = tokenizers.Tokenizer.from_str(tokenizer.to_hf(metadata)["tokenizer.json"].decode())
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for key, text in (TEXTS | framed(metadata)).items():
        assert back.encode(text).ids == reference.encode(text).ids, key
