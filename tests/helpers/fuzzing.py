"""schemathesis on a gateway.

Every route with generated requests, and what must hold of every answer.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from helpers.gateways import Local

LENIENT: Any = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


def described(gateway: Local) -> Any:
    """The gateway as schemathesis reads it."""
    schemathesis: Any = pytest.importorskip("schemathesis")
    with urllib.request.urlopen(gateway.url + "/openapi.json") as answer:
        schema = schemathesis.openapi.from_dict(json.load(answer))
    schema.config.update(base_url=gateway.url)
    return schema


def fuzz(
    schema: Any,
    headers: dict[str, str],
    wanted: Callable[[str], bool],
    examples: int,
    allowed: tuple[int, ...] = (),
) -> dict[str, set[int]]:
    """Statuses by operation, of those whose path is `wanted`.

    Nothing may fail but with the statuses `allowed`, and every error has OpenAI's shape.
    """
    answered: dict[str, set[int]] = {}

    def checked(operation: Any) -> None:
        @given(case=operation.as_strategy())
        @settings(max_examples=examples, derandomize=True, **LENIENT)
        def check(case: Any) -> None:
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "m"
            if case.path_parameters and "name" in case.path_parameters:
                case.path_parameters["name"] = "m"
            response = case.call(headers=headers, timeout=30)
            assert response.status_code < 500 or response.status_code in allowed, response.text
            if response.status_code >= 400:
                error = response.json()["error"]
                assert isinstance(error["message"], str) and error["type"]
            answered.setdefault(operation.label, set()).add(response.status_code)

        check()

    for result in schema.get_all_operations():
        operation = result.ok()
        if wanted(operation.path):
            checked(operation)
    return answered
