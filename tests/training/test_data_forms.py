"""Calls and tools in the words of ShareGPT, as texts and in tables: the same as in OpenAI's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kanna.errors import KannaError, UsageError
from kanna.training import examples
from kanna.training.tokens import ChatTokenizer


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def call(arguments: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


USER = {"role": "user", "content": "Is it warm in Ulm?"}
TOOLS = [tool("weather", city={"type": "string"}), tool("clock", zone={"type": "integer"})]
CHATS = [
    {"messages": [USER, {"role": "assistant", "content": "It is."}], "tools": None},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            USER,
            call({"city": "Ulm"}),
            {"role": "tool", "content": "21"},
            {"role": "assistant", "content": "It is."},
        ],
        "tools": TOOLS,
    },
]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def told(data: Path) -> list[str]:
    return [one.to_json() for one in examples.read(data).examples]


def test_rows_are_what_lines_are(tmp_path: Path) -> None:
    """In a table every tool has the parameters of all, and `tools` is often a text."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").Table
    wanted = told(lines(tmp_path / "chats.jsonl", CHATS))
    texts = [row | {"tools": json.dumps(row["tools"])} for row in CHATS]
    for name, rows in (("objects", CHATS), ("texts", texts)):
        parquet.write_table(table.from_pylist(rows), tmp_path / f"{name}.parquet")
        assert told(tmp_path / f"{name}.parquet") == wanted


def test_share_gpt_with_tools_is_what_openai_has(tmp_path: Path) -> None:
    share: dict[str, Any] = {
        "system": "Be brief.",
        "tools": json.dumps(TOOLS),
        "conversations": [
            {"from": "human", "value": USER["content"]},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Ulm"}}'},
            {"from": "observation", "value": "21"},
            {"from": "gpt", "value": "It is."},
        ],
    }
    wanted = told(lines(tmp_path / "chats.jsonl", CHATS[1:]))
    assert told(lines(tmp_path / "share.jsonl", [share])) == wanted
    share["conversations"][1]["value"] = "weather in Ulm"
    with pytest.raises(UsageError, match="message 2 is a function_call that is no call"):
        examples.read(lines(tmp_path / "share.jsonl", [share]))
    bad = CHATS[1] | {"tools": "weather, clock"}
    with pytest.raises(UsageError, match="tools that are no list"):
        examples.read(lines(tmp_path / "bad.jsonl", [bad]))


OBJECTS = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}"
)
TEXTS = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ '' + c.function.arguments }}"
REST = "{% endfor %}{{ m.content or '' }}\n{% endfor %}"


@pytest.mark.parametrize("template", [OBJECTS, TEXTS])
def test_arguments_are_written_once_whether_they_come_as_text_or_object(
    tmp_path: Path, template: str
) -> None:
    """OpenAI has them as JSON texts: a template would put these into quotes."""
    stub: Any = SimpleNamespace(bos_token=None, eos_token=None)
    chats = ChatTokenizer(tokenizer=stub, templates={"default": template + REST}, most=64)
    for given in ({"city": "Ulm"}, '{"city": "Ulm"}'):
        path = lines(tmp_path / "chats.jsonl", [{"messages": [USER, call(given)]}])
        [example] = examples.read(path).examples
        assert chats.text(example).endswith('{"city": "Ulm"}\n')
    with pytest.raises(KannaError, match="no JSON object: 'Ulm'"):
        examples.read(lines(path, [{"messages": [USER, call("Ulm")]}]))
