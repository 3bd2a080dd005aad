"""GGUF files as gguf-py and llama.cpp see them, and the promises of the writer."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gguf as reference
import numpy as np
import pytest
from helpers.making import gguf_file, metadata_of_a_llama

import kanna
from kanna import encodings
from kanna._util.progress import Silent
from kanna.errors import EncodingError, FormatError, OutputError, PlanError
from kanna.formats import gguf
from kanna.model import MetaValue, ValueType, num_rows
from kanna.plan import TensorPlan
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import packages, pinned


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def as_it_is(file: gguf.GGUFFile) -> list[TensorPlan]:
    return [
        TensorPlan(name=n, tensor=t, encoding=encodings.get(t.dtype))
        for n, t in file.tensors.items()
    ]


@pytest.mark.parametrize(
    "make", [packages.smollm2_gguf, packages.gemma3_270m_gguf], ids=["smollm2", "gemma3"]
)
def test_reading_and_writing_again_gives_the_same_bytes(make: object, tmp_path: Path) -> None:
    path: Path = make()  # type: ignore[operator]
    file = gguf.read(path)
    gguf.write(tmp_path / "again.gguf", metadata=file.metadata, tensors=as_it_is(file), threads=2)
    assert digest(tmp_path / "again.gguf") == digest(path)


def test_agrees_with_the_reference_reader(smollm2: Path) -> None:
    ours, theirs = gguf.read(smollm2), reference.GGUFReader(smollm2)
    assert [t.name for t in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors[:20]:
        mine = ours.tensors[tensor.name]
        assert mine.shape == tuple(int(n) for n in tensor.shape[::-1])
        np.testing.assert_array_equal(
            mine.raw(0, num_rows(mine)).reshape(-1),
            np.asarray(tensor.data).reshape(-1).view(np.uint8),
        )
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            value = ours.value(key)
            want = field.contents()
            assert (list(value) if isinstance(want, list) else value) == want, key


def test_every_value_type_survives(tmp_path: Path) -> None:
    values = {
        "u8": MetaValue(255, ValueType.U8),
        "i8": MetaValue(-128, ValueType.I8),
        "u16": MetaValue(65535, ValueType.U16),
        "i16": MetaValue(-5, ValueType.I16),
        "i32": MetaValue(-7, ValueType.I32),
        "u64": MetaValue(1 << 60, ValueType.U64),
        "i64": MetaValue(-(1 << 60), ValueType.I64),
        "f64": MetaValue(1e300, ValueType.F64),
        "b": MetaValue(True, ValueType.BOOL),
        "s": MetaValue("größe 🙂", ValueType.STR),
        "odd": MetaValue("\udcff", ValueType.STR),
        "list": MetaValue(["a", "", "ß"], ValueType.ARRAY, ValueType.STR),
        "none": MetaValue([], ValueType.ARRAY, ValueType.STR),
        "nested": MetaValue(
            [MetaValue([1, 2], ValueType.ARRAY, ValueType.U32)], ValueType.ARRAY, ValueType.ARRAY
        ),
    }
    gguf.write(tmp_path / "a.gguf", metadata=values, tensors=[])
    found = gguf.read(tmp_path / "a.gguf").metadata
    assert {k: v.type for k, v in found.items()} == {k: v.type for k, v in values.items()}
    assert (
        found["odd"].value == "\udcff"
        and found["s"].value == "größe 🙂"
        and list(found["list"].value) == ["a", "", "ß"]
    )
    gguf.write(tmp_path / "b.gguf", metadata=found, tensors=[])
    assert digest(tmp_path / "a.gguf") == digest(tmp_path / "b.gguf")


def test_a_value_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"general\.count"):
        gguf.write(
            tmp_path / "a.gguf",
            metadata={"general.count": MetaValue(-1, ValueType.U32)},
            tensors=[],
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoding", ["q8_0", "q4_k", "f16"])
def test_same_bytes_for_any_number_of_threads(encoding: str, smollm2: Path, tmp_path: Path) -> None:
    found = {
        threads: digest(
            kanna.convert(
                smollm2, tmp_path / f"{threads}.gguf", encoding=encoding, threads=threads
            ).paths[0]
        )
        for threads in (1, 2, 4)
    }
    assert len(set(found.values())) == 1


def test_split_files_join_again(smollm2: Path, tmp_path: Path) -> None:
    result = kanna.convert(smollm2, tmp_path / "m.gguf", preset="Q8_0", split_max_size=40_000_000)
    assert len(result.paths) == 4 and all(p.stat().st_size <= 40_000_000 for p in result.paths)
    assert result.paths[0].name == "m-00001-of-00004.gguf"
    whole = kanna.convert(smollm2, tmp_path / "whole.gguf", preset="Q8_0").paths[0]
    joined, single = gguf.read(result.paths[0]), gguf.read(whole)
    assert list(joined.tensors) == list(single.tensors) and set(joined.metadata) == set(
        single.metadata
    )
    RUNTIME.open(result.paths[0], context=64, threads=1).close()
    with pytest.raises(FormatError, match="first part"):
        gguf.read(result.paths[1])
    result.paths[2].unlink()
    with pytest.raises(FormatError, match=r"part 3 of 4 is missing"):
        gguf.read(result.paths[0])


def test_experts_pass_through_without_family_knowledge(tmp_path: Path) -> None:
    """An unknown architecture with 3-dimensional expert tensors, each with its own importance."""
    rng = np.random.default_rng(0)
    tensors = {
        "token_embd.weight": rng.standard_normal((32, 256)).astype(np.float16),
        "blk.0.ffn_up_exps.weight": rng.standard_normal((4, 64, 256)).astype(np.float16),
        "blk.0.ffn_gate_inp.weight": rng.standard_normal((4, 256)).astype(np.float32),
        "blk.0.odd.thing": rng.standard_normal((3, 5)).astype(np.float32),
    }
    source = gguf_file(tmp_path / "s.gguf", tensors, {"strange.block_count": 1}, arch="strange")
    importance = rng.uniform(0.1, 10, (4, 256)).astype(np.float32)
    imatrix = gguf_file(
        tmp_path / "imatrix.gguf",
        {
            "blk.0.ffn_up_exps.weight.in_sum2": importance * 2,
            "blk.0.ffn_up_exps.weight.counts": np.full((4, 1), 2, np.float32),
        },
        {"general.type": "imatrix"},
    )
    out = kanna.convert(source, tmp_path / "o.gguf", encoding="q4_k", imatrix=imatrix).paths[0]
    file = gguf.read(out)
    assert {n: t.dtype for n, t in file.tensors.items()} == {
        "token_embd.weight": "q4_k",
        "blk.0.ffn_up_exps.weight": "q4_k",
        "blk.0.ffn_gate_inp.weight": "f32",
        "blk.0.odd.thing": "f32",
    }
    expert = tensors["blk.0.ffn_up_exps.weight"][2].astype(np.float32)
    want = encodings.get("q4_k").encode(expert, weights=importance[2])
    np.testing.assert_array_equal(file.tensors["blk.0.ffn_up_exps.weight"].raw(128, 192), want)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("encoding", ["f32", "f16", "bf16", "q8_0", "q4_k", "iq3_s"])
def test_nonfinite_weights_are_named(bad: float, encoding: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    x[2, 7] = bad
    meta = metadata_of_a_llama(layers=1, hidden=256, heads=4, kv_heads=4, feed=256)
    source = gguf_file(
        tmp_path / "s.gguf",
        {"token_embd.weight": np.ones((4, 256), np.float32), "blk.0.ffn_up.weight": x},
        meta,
    )
    with pytest.raises(
        EncodingError, match=r"blk\.0\.ffn_up\.weight.*1 of 1024[\s\S]*--nonfinite zero"
    ):
        kanna.convert(source, tmp_path / "o.gguf", encoding=encoding)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.gguf"]
    out = kanna.convert(source, tmp_path / "o.gguf", encoding=encoding, nonfinite="zero").paths[0]
    values = gguf.read(out).tensors["blk.0.ffn_up.weight"].rows(0, 4)
    assert np.isfinite(values).all() and abs(values[2, 7]) < 0.3


def test_existing_output_is_kept(tiny_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.gguf"
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        kanna.convert(tiny_gguf, out, preset="Q8_0")
    assert out.read_text() == "mine"
    kanna.convert(tiny_gguf, out, preset="Q8_0", overwrite=True)
    assert gguf.read(out).tensors


def test_the_source_is_never_the_output(tiny_gguf: Path) -> None:
    before = digest(tiny_gguf)
    with pytest.raises(OutputError, match="source itself"):
        kanna.convert(tiny_gguf, tiny_gguf, preset="Q8_0", overwrite=True)
    assert digest(tiny_gguf) == before


def test_missing_folder(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        kanna.convert(tiny_gguf, tmp_path / "no" / "o.gguf", preset="Q8_0")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nobody can write: root needs a file system of its own for that."""
    place = tmp_path / "read-only"
    place.mkdir(0o500)
    mounted = os.geteuid() == 0
    if (
        mounted
        and subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)]).returncode
    ):
        pytest.skip("this root may not mount")
    yield place
    if mounted:
        subprocess.run(["umount", str(place)], check=True)
    place.chmod(0o700)


def test_read_only_folder(tiny_gguf: Path, read_only: Path) -> None:
    with pytest.raises(OutputError, match="read-only"):
        kanna.convert(tiny_gguf, read_only / "o.gguf", preset="Q8_0")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_too_little_space_is_found_before_writing(tiny_gguf: Path, small_disk: Path) -> None:
    with pytest.raises(OutputError, match=r"MB free[\s\S]*Expected"):
        kanna.convert(tiny_gguf, small_disk / "o.gguf", encoding="f32")
    assert not list(small_disk.iterdir())


def test_disk_that_fills_while_writing(
    tiny_gguf: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "kanna.formats.stream.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1 << 40})
    )
    with pytest.raises(OutputError, match="full"):
        kanna.convert(tiny_gguf, small_disk / "o.gguf", encoding="f32")
    assert not list(small_disk.iterdir())


def test_interrupt_leaves_nothing(tiny_gguf: Path, tmp_path: Path) -> None:
    class Interrupting(Silent):
        def advance(self, amount: int, detail: str = "") -> None:
            if detail:
                raise KeyboardInterrupt

    for threads in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            kanna.convert(
                tiny_gguf,
                tmp_path / "o.gguf",
                preset="Q8_0",
                progress=Interrupting(),
                threads=threads,
            )
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_during_convert(sent: signal.Signals, tiny_gguf: Path, tmp_path: Path) -> None:
    """Ctrl-C and `kill` leave nothing, kill -9 at most a partial.

    The same command then gives the same bytes.
    """
    out = tmp_path / "o.gguf"
    command = [
        sys.executable,
        "-m",
        "kanna",
        "convert",
        str(tiny_gguf),
        "-o",
        str(out),
        "--encoding",
        "iq1_m",
        "--quiet",
    ]
    slowly = os.environ | {"KANNA_SIMD": "baseline"}
    process = subprocess.Popen([*command, "--threads", "1"], stderr=subprocess.PIPE, env=slowly)

    def partials() -> list[Path]:
        return [p for p in tmp_path.glob("o.gguf.*.partial") if p.stat().st_size]

    deadline = time.time() + 60
    while not partials() and time.time() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(sent)
    stderr = process.communicate(timeout=60)[1].decode()
    assert process.returncode == {2: 130, 15: 143}.get(sent, -9), stderr
    assert not out.exists()
    assert bool(partials()) == (sent == signal.SIGKILL)
    assert "Traceback" not in stderr
    subprocess.run(command, check=True)
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob(".*"))
    again = kanna.convert(tiny_gguf, tmp_path / "again.gguf", encoding="iq1_m").paths[0]
    assert digest(again) == digest(out)


def test_layout_is_exact(tiny_gguf: Path, tmp_path: Path) -> None:
    for preset in ("F16", "Q8_0", "Q4_K_M", "Q2_K", "IQ4_XS"):
        planned = kanna.convert(tiny_gguf, preset=preset, dry_run=True)
        result = kanna.convert(tiny_gguf, tmp_path / "o.gguf", preset=preset, overwrite=True)
        fitted = next(r for r in kanna.fit(tiny_gguf).rows if r.preset == preset)
        size = result.paths[0].stat().st_size
        assert planned.file_bytes == result.file_bytes == fitted.file_bytes == size


def test_provenance_is_in_the_file(smollm2: Path, tmp_path: Path) -> None:
    out = kanna.convert(smollm2, tmp_path / "o.gguf", preset="Q4_K_M").paths[0]
    file = gguf.read(out)
    hashes = {smollm2.name: pinned.FILES[smollm2.name]}
    assert json.loads(file.value("kanna.source.sha256")) == hashes
    assert file.value("kanna.command") == f"kanna convert {smollm2.name} --preset Q4_K_M"
    assert file.value("general.file_type") == 15 and "q4_1" in file.value("kanna.source.quantized")
    assert list(file.value("kanna.plan.substitutions")) == ["q4_k -> q5_0", "q6_k -> q8_0"]


def test_late_values_replace_placeholders_of_their_length(tiny_gguf: Path, tmp_path: Path) -> None:
    file = gguf.read(tiny_gguf)
    keys = file.metadata | {
        "a.hash": MetaValue("000", ValueType.STR),
        "z": MetaValue(1, ValueType.U8),
    }
    out = tmp_path / "a.gguf"
    late = {"a.hash": MetaValue("abc", ValueType.STR)}
    gguf.write(out, metadata=keys, tensors=as_it_is(file), threads=2, late=lambda: late)
    gguf.write(tmp_path / "b.gguf", metadata=keys | late, tensors=as_it_is(file))
    assert digest(out) == digest(tmp_path / "b.gguf")
    with pytest.raises(ValueError, match="takes 12 bytes where 11"):
        gguf.write(
            tmp_path / "c.gguf",
            metadata=keys,
            tensors=[],
            late=lambda: {"a.hash": MetaValue("abcd", ValueType.STR)},
        )
    assert not list(tmp_path.glob("c.gguf*"))


def test_imatrix_of_another_model(tiny_gguf: Path, tmp_path: Path) -> None:
    def make(name: str, cols: int) -> Path:
        return gguf_file(
            tmp_path / "i.gguf",
            {
                f"{name}.in_sum2": np.ones((1, cols), np.float32),
                f"{name}.counts": np.ones((1, 1), np.float32),
            },
            {"general.type": "imatrix"},
        )

    with pytest.raises(PlanError, match="names no tensor"):
        kanna.convert(
            tiny_gguf,
            tmp_path / "o.gguf",
            preset="Q4_K_M",
            imatrix=make("blk.99.ffn_up.weight", 256),
        )
    with pytest.raises(PlanError, match=r"made from"):
        kanna.convert(
            tiny_gguf,
            tmp_path / "o.gguf",
            preset="Q4_K_M",
            imatrix=make("blk.0.ffn_up.weight", 320),
        )
    with pytest.raises(FormatError, match="imatrix"):
        kanna.convert(tiny_gguf, tmp_path / "o.gguf", preset="Q4_K_M", imatrix=tiny_gguf)
    (tmp_path / "damaged.dat").write_bytes(b"\xff\x00\x00\x00rubbish")
    with pytest.raises(FormatError, match="damaged"):
        kanna.convert(
            tiny_gguf, tmp_path / "o.gguf", preset="Q4_K_M", imatrix=tmp_path / "damaged.dat"
        )
    assert not (tmp_path / "o.gguf").exists()
