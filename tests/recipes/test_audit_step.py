"""An audit as a step: the gate report of a step before it, licences, what later steps ask of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers import needs, tiny_models

import kanna
from kanna.errors import UsageError

RECIPE = """
variables: {model: ./source, allowed: [mit, "apache-2.0"]}
steps:
  small:
    verb: convert
    with: {source: "${model}", preset: Q8_0}
  intact:
    verb: verify
    with: {source: "${model}", artefact: "${small}"}
  chain:
    verb: audit
    with: {artefact: "${small}", source: "${model}", gate: "${intact}", allow: "${allowed}"}
  signed:
    verb: inspect
    when: chain.status == "complete"
    with: {source: "${small}"}
  free:
    verb: inspect
    when: chain.licence == "mit"
    with: {source: "${small}"}
outputs:
  proof: ${intact}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    tiny_models.make("llama", folder / "source")
    (folder / "source" / "README.md").write_text("---\nlicense: mit\n---\n")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_licence_that_is_not_allowed_ends_what_follows(recipe: Path, tmp_path: Path) -> None:
    path = recipe.with_name("licence.yaml")
    without = RECIPE.replace(', gate: "${intact}"', "").replace("${intact}", "${small}")
    path.write_text(re.sub(r"  intact:\n.*\n.*\n", "", without))
    result = kanna.run(path, tmp_path / "out")
    assert result.ok, result.to_dict()
    steps = {step.id: step for step in result.steps}
    # Nobody has signed it: a link is missing, and none is broken.
    assert steps["chain"].figures == {"status": "incomplete", "licence": "mit"}
    assert (steps["signed"].state, steps["free"].state) == ("skipped", "done")
    refused = kanna.run(path, tmp_path / "out", set={"allowed": ["apache-2.0"]})
    assert {step.id: step.state for step in refused.steps} == {
        "small": "kept",
        "chain": "failed",
        "signed": "blocked",
        "free": "blocked",
    }
    error = next(step.error for step in refused.steps if step.id == "chain")
    assert error is not None and "licence: mit, allowed: apache-2.0" in error.found
    assert refused.exit_code == 1


@pytest.mark.slow  # runs a model
def test_the_report_of_a_check_is_a_link(recipe: Path, tmp_path: Path) -> None:
    needs.llama_cpp()
    result = kanna.run(recipe, tmp_path / "out")
    assert result.ok, result.to_dict()
    made = json.loads((tmp_path / "out" / "steps" / "chain" / "result.json").read_text())
    verdicts = {check["name"]: check["ok"] for check in made["checks"]}
    assert verdicts == {
        "provenance": True,
        "source": True,
        "plan": True,
        "gate": True,
        "signature": None,
        "licence": True,
    }
    [proof] = result.outputs["proof"]
    assert json.loads(Path(proof).read_text())["status"] == "proved"
    again = kanna.run(recipe, tmp_path / "out")
    assert {step.state for step in again.steps} == {"kept", "skipped"}


def test_a_gate_is_what_a_check_made(recipe: Path, tmp_path: Path) -> None:
    path = recipe.with_name("wrong.yaml")
    path.write_text(RECIPE.replace('gate: "${intact}"', 'gate: "${small}"'))
    with pytest.raises(UsageError, match="gate"):
        kanna.run(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
