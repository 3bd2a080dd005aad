"""Packages for Ollama: templates in Go write what the model's own template writes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import needs
from helpers.packing import QUOTES, SHAPED, mlx_folder, shell

from kanna.errors import UnsupportedError
from kanna.packaging import chat_turns, package
from kanna.tokenizer.chat import render


@pytest.mark.parametrize("name", SHAPED)
def test_the_shape_of_a_template_writes_what_it_writes(name: str) -> None:
    found = chat_turns.turn_markers(SHAPED[name], eos="</s>")
    assert found is not None
    assert (found.system is None) == (name in ("gemma", "mistral"))
    stops = {
        "chatml": "<|im_end|>",
        "llama3": "<|eot_id|>",
        "gemma": "<end_of_turn>",
        "mistral": "</s>",
    }
    assert found.stop == stops[name]
    assert found.default == ("Be kind." if name == "chatml" else "")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "{% for m in messages %}<{{ loop.index }}>{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.role }}: {{ m.content.split('2')[0] }}\n{% endfor %}",
        "{{ messages[-1].content }}",
        "{{ nowhere.nothing }}",
        "{% if %}",
    ],
)
def test_a_template_that_does_more_is_not_guessed(template: str) -> None:
    assert chat_turns.turn_markers(template) is None


GO = """package main
import ("encoding/json"; "os"; "text/template")
func main() {
  var all []struct{ Template string; Data map[string]any }
  if err := json.NewDecoder(os.Stdin).Decode(&all); err != nil { panic(err) }
  for _, one := range all {
    made := template.Must(template.New("").Parse(one.Template))
    if err := made.Execute(os.Stdout, one.Data); err != nil { panic(err) }
    os.Stdout.Write([]byte{0})
  }
}
"""


def test_templates_in_go_write_what_jinja_writes(tmp_path: Path) -> None:
    """The engine Ollama has, given what Ollama gives it."""
    program = needs.program("go", install="golang-go")
    (tmp_path / "main.go").write_text(GO)
    asked = [
        {"role": "user", "content": 'Is {{ 1 < 2 }} "so"?\n'},
        {"role": "assistant", "content": "Yes & 'no'."},
    ]
    cases: list[dict[str, Any]] = []
    wanted: list[str] = []
    for name, template in (*SHAPED.items(), ("quotes", QUOTES)):
        shape = chat_turns.turn_markers(template, eos="</s>")
        assert shape is not None, name
        for rules in ("", "Say little."):
            if rules and not (shape.system or shape.joined):
                continue
            told = [
                {"role": "user", "content": "Hello"},
                asked[1],
                {"role": "user", "content": "Again"},
            ]
            if name != "llama3":  # it trims what is said
                told = [asked[0], *told[1:]]
            wanted.append(
                render(
                    template,
                    [{"role": "system", "content": rules}] * bool(rules) + told,
                    eos="</s>",
                )
            )
            system = rules or shape.default
            messages = [{"role": "system", "content": system}] * bool(system) + told
            turned = [{"Role": m["role"], "Content": m["content"]} for m in messages]
            cases.append({"Template": shape.go(), "Data": {"System": system, "Messages": turned}})
    env = os.environ | {
        "GO111MODULE": "off",
        "GOCACHE": str(tmp_path / "cache"),
        "GOFLAGS": "-mod=mod",
    }
    done = shell(program, "run", tmp_path / "main.go", input=json.dumps(cases), env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\0")[:-1] == wanted


def test_modelfile(packaged: Path, tmp_path: Path) -> None:
    text = (packaged / "Modelfile").read_text()
    model = re.search(r"^FROM (.*)$", text, re.M)
    assert model and (packaged / model[1]).is_file() and " " not in model[1]
    assert text.count('"""') % 2 == 0 and 'SYSTEM """Be kind."""' in text
    assert "PARAMETER num_ctx 256" in text and 'PARAMETER stop """<|im_end|>"""' in text
    with pytest.raises(UnsupportedError, match="mlx"):
        package(mlx_folder(tmp_path / "m"), tmp_path / "out", to=["ollama"])
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
