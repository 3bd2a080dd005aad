"""Chat templates: what transformers renders is what we render, wherever the template lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_models import write_tokenizer
from helpers.tokenizing import folder_source

from kanna import tokenizer
from kanna.runtimes.folder_text import FolderText
from kanna.tokenizer import templates
from kanna.tokenizer.chat import render

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Bé brief <&>."},
    {"role": "user", "content": "2+2?", "name": None},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "add",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"b": 1}}}],
    },
    {"role": "tool", "content": "4"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"z": 1, "a": ["ü"]}}}]
TEMPLATES = {
    "tojson": "{{ messages | tojson }}|{{ tools | tojson(indent=2) }}",
    "compact": "{{ tools | tojson(separators=(',', ':'), sort_keys=true, ensure_ascii=true) }}",
    "items": "{% for m in messages %}{% for k, v in m | items %}{{ k }}={{ v }};{% endfor %}"
    "{% endfor %}",
    "order": "{% for m in messages %}{% for k in m %}{{ k }},{% endfor %}{% endfor %}",
    "controls": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}"
    "{% if m.role == 'assistant' %}{% break %}{% endif %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% endfor %}{{ ns.n }}{{ dict(a=1) }}",
    "macro": "{% macro show(m) %}<{{ m.role }}>{% endmacro %}{% for m in messages %}{{ show(m) }}"
    "{% endfor %}",
    "generation": "{% set x = 1 %}{% generation %}{% set x = 2 %}a{{ x }}"
    "{% endgeneration %}{{ x }}",
    "undefined": "{{ pad_token is defined }}{{ bos_token is defined }}{{ tools is defined }}"
    "{{ documents is none }}",
    "special": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}",
    "missing": "{{ 'content' in messages[2] }}{{ 'name' in messages[1] }}"
    "{{ messages[2].thinking }}",
    "blocks": "{%- for m in messages %}\n    {%- if m.role == 'user' -%}\n  U\n    {%- endif %}\n"
    "{% endfor %}\n",
    "today": "{{ strftime_now('%Y') }}",
    "prompt": "{% if add_generation_prompt %}go{% endif %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_transformers_renders_it(name: str) -> None:
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    template = TEMPLATES[name]
    messages = utilities._normalize_chat_messages(MESSAGES)
    [expected], _ = utilities.render_jinja_template(
        [messages],
        tools=TOOLS,
        chat_template=template,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    assert render(template, MESSAGES, bos="<s>", eos="</s>", tools=TOOLS) == expected


def _write(folder: Path, where: str) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["chat_template"]
    named = {"default": "D", "tool_use": "T"}
    if where == "list":
        config["chat_template"] = [{"name": n, "template": t} for n, t in named.items()]
    elif where == "object":
        config["chat_template"] = named
    elif where == "files":
        (folder / templates.FILE).write_text("D")
        (folder / templates.FOLDER).mkdir()
        (folder / templates.FOLDER / "tool_use.jinja").write_text("T")
    elif where == "json file":
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": named}))
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("where", ["list", "object", "files", "json file"])
def test_named_templates_are_read_wherever_they_lie(where: str, tmp_path: Path) -> None:
    write_tokenizer("qwen2", tmp_path, 512)
    _write(tmp_path, where)
    metadata = tokenizer.metadata(folder_source(tmp_path))
    assert metadata["tokenizer.chat_template"].value == "D"
    assert metadata["tokenizer.chat_template.tool_use"].value == "T"
    assert FolderText(tmp_path, []).chat_template == "D"
    back = tokenizer.to_hf(metadata)["tokenizer_config.json"]
    again = templates.named(json.loads(back)["chat_template"])
    assert again == {"default": "D", "tool_use": "T"}
    assert templates.choose(again, tools=TOOLS) == "T"
