"""The JSON Schema of recipes, for editors: made from the signatures of the verbs."""

from __future__ import annotations

from typing import cast

from kanna.recipes import verbs
from kanna.recipes.document import Value
from kanna.recipes.options import model
from kanna.recipes.text import RecipeText, StepText

_Schema = dict[str, Value]


def schema() -> _Schema:
    """Returns the schema, of draft 2020-12: every option of every verb, with its description."""
    whole = cast(_Schema, RecipeText.model_json_schema(by_alias=True))
    definitions = cast(dict[str, _Schema], whole["$defs"])
    step = definitions[StepText.__name__]
    properties = cast(dict[str, _Schema], step["properties"])
    properties["verb"]["enum"] = [*verbs.names()]
    cases: list[Value] = []
    for name in verbs.names():
        options = cast(_Schema, model(name).model_json_schema())
        definitions[f"with-{name}"] = _with_names(options)
        chosen: _Schema = {"$ref": f"#/$defs/with-{name}"}
        then: _Schema = {"properties": {"with": chosen}}
        if options.get("required"):
            then["required"] = ["with"]
        cases.append({"if": {"properties": {"verb": {"const": name}}}, "then": then})
    step["allOf"] = cases
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of kanna",
        **{key: value for key, value in whole.items() if key != "title"},
    }


def _with_names(options: _Schema) -> _Schema:
    """The options of a verb, where `${name}` can stand for any value."""
    named: Value = {"type": "string", "pattern": r"\$\{"}
    properties = cast(dict[str, _Schema], options["properties"])
    changed: dict[str, Value] = {}
    for name, one in properties.items():
        about = {key: one[key] for key in ("description", "default") if key in one}
        kind: _Schema = {key: value for key, value in one.items() if key not in (*about, "title")}
        changed[name] = {"anyOf": [kind, named], **about}
    return {**options, "properties": changed}
