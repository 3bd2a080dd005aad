"""Texts and conversations that tell tokenizers and chat templates apart."""

from __future__ import annotations

PLAIN = (
    "The quick brown fox, 1 2 3 10 1234; don't: (x_1 = y[2] + 3.5) * {a-b} / 100% <b>Hi!</b>",
    "def f(a):\n    return a\n\n\tB # \"C\" 'd' @e $f ^g &h |i ~j `k` \\l ?",
    "Trailing and  double spaces \n",
)
"""What every text is made of: a tokenizer that differs here differs everywhere."""
# Where tokenizers go wrong: spaces, digits, case, contractions, scripts without spaces, combining
# marks, emoji sequences, code, control characters, very long runs.
CORPUS = (
    "The quick brown fox jumps over the lazy dog.",
    "Hello,  world!   Three   spaces.\tA tab.\n\n\nThree lines.\r\nWindows.",
    " leading space",
    "trailing space ",
    "",
    " ",
    "   ",
    "\n",
    "\n\n  \n",
    "I'm, you're, he's, we've, they'll, I'd, DON'T, ’tis",
    "1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x7fFF 1e-10 ½ ² ③ ٣",
    "camelCase snake_case SCREAMING_CASE kebab-case "
    "http://example.com/a?b=c&d=%20#e user@mail.example",
    'def f(x: int) -> str:\n    return f"{x:>10}" if x != '
    "0 else ''\n\n\tfor i in range(10):\n\t\tprint(i)",
    "#include <vector>\nint main() { std::vector<int> "
    "v{1,2,3}; return v[0]<<2 && !v.empty(); } // ok",
    "SELECT * FROM t WHERE a >= 1 AND b LIKE '%x%'; <div "
    'class="a">&nbsp;</div> {"k": [null, true]}',
    "Größenmaßstäbe, cœur, naïve, Ångström, fiancée, İstanbul, ŁÓDŹ, ǅ",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "いろはにほへと ちりぬるを。カタカナと漢字、鉋で削る。",
    "我能吞下玻璃而不伤身体。繁體字:龍龜。",
    "키스의 고유조건은 입술끼리 만나야 하고",
    "أبجد هوز حطي كلمن سعفص قرشت ثخذ ضظغ",
    "עטלף אבק נס דרך מזגן שהתפוצץ",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "ជាភាសាខ្មែរ",
    "👍 👩‍👩‍👧‍👦 🏳️‍🌈 🇯🇵 👨🏽‍🚀 ☺️ 🫠",
    "e\u0301 a\u0308 n\u0303 \u1100\u1161 ﬁ Å",
    "“quotes” ‘single’ — dash – en… ellipsis «guillemets» „low“",
    "∑∫√∞≠≤≥±×÷∂∇ α+β=γ ℝ ⊂ ℂ → ⇒",
    "\u200b\u200d\ufeff\u00a0\u3000\u2028\x00\x07\x7f",
    "a" * 200,
    " " * 100,
    "=" * 80,
    "-----\n\n=====",
    "?!?!?! ... !!!",
)

CONVERSATIONS: tuple[tuple[dict[str, str], ...], ...] = (
    ({"role": "user", "content": "Hello"},),
    (
        {"role": "user", "content": "What is 1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And <2+2>? \"quoted\" & 'so'\n```py\nx\n```"},
    ),
    ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "こんにちは 🙂"}),
)
