"""Rows of Parquet and of folders of `datasets` as training data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import needs

from kanna.errors import UsageError
from kanna.training import examples

needs.package("datasets")

ANSWER = {"role": "assistant", "content": "fox fox"}


def test_rows_of_parquet_and_folders_of_datasets_are_read(tmp_path: Path) -> None:
    import datasets

    chats = [{"messages": [{"role": "user", "content": f"Say {n}"}, ANSWER]} for n in (1, 2, 3, 1)]
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps(chat) for chat in chats))
    rows = datasets.Dataset.from_list(chats)
    rows = rows.add_column("tools", [None] * len(rows))  # a column that some rows do not have
    rows.to_parquet(tmp_path / "chats.parquet")
    rows.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved/cache-0.arrow").write_bytes(b"what datasets computed")
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "parts")
    lines = [one.to_json() for one in examples.read(tmp_path / "chats.jsonl").examples]
    for name in ("chats.parquet", "saved", "parts"):
        read = examples.read(tmp_path / name)
        assert [one.to_json() for one in read.examples] == lines, name
        assert read.duplicates == 1
    assert read.examples[1].where == "data-00000-of-00001.arrow, row 2"
    whole = (tmp_path / "chats.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="cut.parquet cannot be read after row 0"):
        examples.read(tmp_path / "cut.parquet")
