"""Calibration: the activations of a whole forward pass, one layer at a time, kept, resumed and refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import kanna
from kanna import families, imatrix, statistics
from kanna.calibrate import gradients, texts
from kanna.calibrate.moments import block_of
from kanna.calibrate.windows import HELD_OUT, cut
from kanna.cli.main import cli
from kanna.errors import FormatError, KannaError, OutputError, PlanError, UsageError
from kanna.model import string

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_models  # noqa: E402 - needs torch

WINDOW, TOKENS = 128, 512
# Last module of a Hugging Face name → the site its inputs belong to.
SITES = {
    "q_proj": "attn_in", "qkv_proj": "attn_in", "o_proj": "attn_out", "gate_proj": "ffn_in", "gate_up_proj": "ffn_in",
    "down_proj": "ffn_mid", "lm_head": "head",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Short windows, few rows to try shrinkage on, one thread: the same code in a fraction of the time."""
    from kanna.calibrate import shrink, windows

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "WINDOW", WINDOW)
        patch.setattr(shrink, "ROWS", 4)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(tiny_models.TEXT * 60, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "llama"
    tiny_models.make("llama", folder)
    return folder


@pytest.fixture(scope="module")
def calibrated(llama: Path, text: Path) -> tuple[statistics.Statistics, Any]:
    """Statistics of the llama over seven windows, and what `calibrate` returned."""
    folder = llama.parent / "statistics"
    result = kanna.calibrate(llama, folder, calibration=[text], tokens=7 * WINDOW)
    return statistics.read(folder), result


def forward(model: Any, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Second moments by site, in double precision, from hooks on the complete model."""
    sums: dict[str, Any] = {}

    def listen(site: str) -> Callable[..., None]:
        def hook(_module: Any, given: Any) -> None:
            x = given[0].reshape(-1, given[0].shape[-1]).double()
            sums[site] = sums.get(site, 0) + x.T @ x

        return hook

    hooks: list[Any] = []
    for name, module in model.named_modules():
        last = name.split(".")[-1]
        if last in SITES:
            layer = f"blk.{name.split('.')[2]}." if ".layers." in name else ""
            hooks.append(module.register_forward_pre_hook(listen(f"{layer}{SITES[last]}")))
    with torch.no_grad():
        for row in ids:
            model(input_ids=torch.from_numpy(row.astype(np.int64))[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return {site: (total / ids.size).numpy() for site, total in sums.items()}


def windows_of(source: Path, text: Path, tokens: int) -> Any:
    model = families.load_model(kanna.open_source(source))
    return cut(texts.documents([text], model)[0], model, tokens=tokens)


def assert_same(folder: Path, other: Path) -> None:
    """The same statistics, file by file and byte by byte."""
    names = {p.name for p in folder.iterdir() if p.is_file()}
    assert names == {p.name for p in other.iterdir()}
    assert [n for n in sorted(names) if (folder / n).read_bytes() != (other / n).read_bytes()] == []


@pytest.mark.parametrize("name", tiny_models.RECIPES)
def test_layer_by_layer_is_the_whole_forward_pass(name: str, tmp_path: Path, text: Path) -> None:
    """Every site of every recipe, to 1e-4 of the largest value of its second moment."""
    model = tiny_models.make(name, tmp_path / "model")
    kanna.calibrate(tmp_path / "model", tmp_path / "stats", calibration=[text], tokens=TOKENS)
    found = statistics.read(tmp_path / "stats")
    source = families.load_model(kanna.open_source(tmp_path / "model"))
    if families.to_hf(source)[0].get("sliding_window") is None:
        # A window that the runtime does not know is not in the statistics either.
        model.config.sliding_window = None
    expected = forward(model, windows_of(tmp_path / "model", text, TOKENS).ids)
    assert set(found.sites) == set(expected)
    for site, whole in expected.items():
        (block,) = found.read(site, "second")
        np.testing.assert_allclose(block, whole, rtol=0, atol=1e-4 * np.abs(whole).max(), err_msg=site)
    matrices = {n for n in source.tensors if n.startswith("blk.") and n.endswith(".weight") and "norm" not in n}
    assert matrices <= set(found.site_of)


def test_what_is_kept_of_each_site(calibrated: tuple[statistics.Statistics, Any], llama: Path, text: Path) -> None:
    found, result = calibrated
    windows = windows_of(llama, text, 7 * WINDOW)
    assert windows.ids.shape == (7, WINDOW) and list(np.flatnonzero(windows.held)) == [HELD_OUT // 2]
    assert (result.tokens, result.held_tokens, result.sites) == (6 * WINDOW, WINDOW, 13)
    assert result.domains == {"text.txt": 7 * WINDOW} and not result.reused and not result.blocks
    model = tiny_models.make("llama", found.folder.parent / "again")
    expected = forward(model, windows.ids[~windows.held])
    for site in ("blk.1.ffn_mid", "head"):
        second, mean, held = (found.read(site, what) for what in ("second", "mean", "held"))
        np.testing.assert_allclose(second[0], expected[site], rtol=0, atol=1e-4 * np.abs(expected[site]).max())
        assert mean.shape == (found.sites[site].columns,)
        # What was held out is no part of the sums, and looks like them.
        assert held.dtype == np.float16 and held.shape == (WINDOW // 2, found.sites[site].columns)
        power = np.square(held, dtype=np.float64).mean() / second[0].diagonal().mean()
        assert 0.5 < power < 2
    assert found.site_of["blk.0.attn_q.weight"] == found.site_of["blk.0.attn_v.weight"] == "blk.0.attn_in"
    assert found.site_of["output.weight"] == "head" and "token_embd.weight" not in found.site_of
    assert found.moment("blk.2.ffn_up.weight") is found.moment("blk.2.ffn_gate.weight")
    assert set(result.shrink) <= {"0.05", "0.1", "0.2", "0.4"} and sum(result.shrink.values()) == 13


def test_tokens_are_those_of_the_model(llama: Path, text: Path) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    windows = windows_of(llama, text, 2 * WINDOW)
    expected = tokenizer(text.read_text(), add_special_tokens=False)["input_ids"]
    assert windows.ids[1, 1:].tolist() == expected[WINDOW + 1 : 2 * WINDOW]
    assert set(windows.ids[:, 0]) == {tokenizer.bos_token_id}


def test_a_gguf_gives_the_same_statistics_as_its_folder(
    calibrated: tuple[statistics.Statistics, Any], llama: Path, text: Path, tmp_path: Path
) -> None:
    """Rows of queries and keys have another order there; the inputs are the same."""
    kanna.convert(llama, tmp_path / "f32.gguf", encoding="f32", threads=1)
    kanna.calibrate(tmp_path / "f32.gguf", tmp_path / "stats", calibration=[text], tokens=7 * WINDOW)
    other = statistics.read(tmp_path / "stats")
    assert list(other.sites) == list(calibrated[0].sites)
    for site in other.sites:
        a, b = (s.read(site, "second") for s in (calibrated[0], other))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(a).max(), err_msg=site)


class Stops:
    """Progress that is interrupted once, where `when` says."""

    def __init__(self, when: str) -> None:
        self.when, self.seen = when, list[str]()

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        pass

    def advance(self, amount: int, detail: str = "") -> None:
        self.seen.append(detail)
        if detail == self.when:
            raise KeyboardInterrupt

    def finish(self) -> None:
        pass


@pytest.mark.parametrize("when", ["layer 0", "layer 2", "head"])
def test_an_interrupted_run_goes_on(
    when: str, calibrated: tuple[statistics.Statistics, Any], llama: Path, text: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stats"
    with pytest.raises(KeyboardInterrupt):
        kanna.calibrate(llama, folder, calibration=[text], tokens=7 * WINDOW, progress=Stops(when))
    with pytest.raises(PlanError, match="no statistics"):
        statistics.read(folder)
    rest = Stops("never")
    again = kanna.calibrate(llama, folder, calibration=[text], tokens=7 * WINDOW, progress=rest)
    assert not again.reused and when not in {s for s in rest.seen if s != "head"}
    assert_same(folder, calibrated[0].folder)


def test_stopped_within_a_layer_or_with_damaged_work(
    calibrated: tuple[statistics.Statistics, Any], llama: Path, text: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from kanna.calibrate.network import Network

    folder, calls, check = tmp_path / "stats", [0], Network.check

    def stops(self: Network, hidden: Any, where: str) -> None:
        calls[0] += 1
        if calls[0] in (11, 22):
            raise KeyboardInterrupt
        check(self, hidden, where)

    monkeypatch.setattr(Network, "check", stops)
    for spoil in ("nothing", "spool", "nothing"):
        if spoil == "spool":
            (folder / "work" / "odd").write_bytes(b"short")
        if spoil == "nothing" and calls[0] >= 22:
            break
        with pytest.raises(KeyboardInterrupt):
            kanna.calibrate(llama, folder, calibration=[text], tokens=7 * WINDOW)
        assert not (folder / "index.json").exists()
    (folder / "work" / "state.json").write_text("{broken")
    kanna.calibrate(llama, folder, calibration=[text], tokens=7 * WINDOW)
    assert_same(folder, calibrated[0].folder)


def test_the_same_is_used_again_and_another_is_not(llama: Path, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stats"

    def reused(**given: Any) -> bool:
        return kanna.calibrate(llama, folder, **{"calibration": [text], "tokens": TOKENS, **given}).reused

    assert not reused()
    before = (folder / "head.safetensors").stat().st_mtime_ns
    assert reused() and (folder / "head.safetensors").stat().st_mtime_ns == before
    assert not reused(overwrite=True)
    assert not reused(tokens=2 * TOKENS)
    (folder / "gradients.safetensors").write_bytes(b"of the statistics before")
    assert not reused() and not (folder / "gradients.safetensors").exists()
    for lost in ("imatrix.gguf", "layer-00001.safetensors"):
        (folder / lost).unlink()
        assert not reused()
    (folder / "index.json").write_text("{broken")
    assert not reused()
    other = tmp_path / "other.txt"
    other.write_text(text.read_text() + "More.")
    assert not reused(calibration=[other])


def test_wide_sites_get_blocks_along_the_diagonal(
    calibrated: tuple[statistics.Statistics, Any], llama: Path, text: Path, tmp_path: Path
) -> None:
    made = kanna.calibrate(llama, tmp_path / "stats", calibration=[text], tokens=7 * WINDOW, widest=256)
    assert made.blocks == {f"blk.{i}.ffn_mid": 256 for i in range(3)}
    found = statistics.read(tmp_path / "stats")
    whole, blocks = (s.read("blk.1.ffn_mid", "second") for s in (calibrated[0], found))
    assert blocks.shape == (2, 256, 256)
    for i in range(2):
        at = slice(256 * i, 256 * (i + 1))
        np.testing.assert_allclose(blocks[i], whole[0, at, at], rtol=0, atol=1e-4 * whole.max())
    np.testing.assert_allclose(
        found.weights["blk.1.ffn_down.weight"], calibrated[0].weights["blk.1.ffn_down.weight"], rtol=1e-4
    )
    moment = found.moment("blk.1.ffn_down.weight")
    assert moment is not None and [(p.start, p.stop) for p in moment.parts()] == [(0, 256), (256, 512)]


@pytest.mark.parametrize(
    ("columns", "widest", "block"),
    [(576, 4096, 576), (8192, 4096, 4096), (14336, 4096, 3584), (11008, 4096, 256), (6000, 4096, 6000)],
)
def test_widths_of_blocks(columns: int, widest: int, block: int) -> None:
    assert block_of(columns, widest) == block


def test_imatrix_for_llama_cpp(calibrated: tuple[statistics.Statistics, Any], llama: Path, tmp_path: Path) -> None:
    found = calibrated[0]
    read = imatrix.read(found.folder / "imatrix.gguf")
    assert read.datasets == ["text.txt"] and read.chunks == 6
    assert set(read.weights) == set(found.site_of)
    for name, values in read.weights.items():
        (block,) = found.read(found.site_of[name], "second")
        np.testing.assert_allclose(values, block.diagonal(), rtol=1e-6)
    words = [
        "convert", str(llama), "-o", str(tmp_path / "m.gguf"), "--preset", "Q2_K", "--imatrix",
        str(found.folder / "imatrix.gguf"), "--quiet",
    ]  # fmt: skip
    run = CliRunner().invoke(cli, words)
    assert run.exit_code == 0, run.stderr
    assert kanna.inspect(tmp_path / "m.gguf").family == "llama"


def test_statistics_decide_the_values(
    calibrated: tuple[statistics.Statistics, Any], llama: Path, tmp_path: Path
) -> None:
    """The bytes of `convert --statistics` are those of gptq, and they lose less under the calibrated moment."""
    from kanna.formats import gguf as container

    found = calibrated[0]
    for method in ("search", "gptq"):
        kanna.convert(llama, tmp_path / f"{method}.gguf", encoding="q4_0", statistics=found.folder, method=method)
    kanna.convert(llama, tmp_path / "usual.gguf", encoding="q4_0", statistics=found.folder)
    source = families.load_model(kanna.open_source(llama)).tensors
    files = {m: container.read(tmp_path / f"{m}.gguf").tensors for m in ("search", "gptq", "usual")}
    for name, site in found.site_of.items():
        h = found.read(site, "second")[0].astype(np.float64)
        rows = source[name].shape[0]
        values = {m: f[name].rows(0, rows) for m, f in files.items()}
        errors = {m: v.astype(np.float64) - source[name].rows(0, rows) for m, v in values.items()}
        lost = {m: float(np.einsum("ri,ij,rj->", e, h, e)) for m, e in errors.items()}
        assert lost["gptq"] < 0.95 * lost["search"], name
        np.testing.assert_array_equal(values["usual"], values["gptq"])


def test_statistics_of_another_model_are_refused(calibrated: tuple[statistics.Statistics, Any], tmp_path: Path) -> None:
    tiny_models.make("gemma2", tmp_path / "gemma2")
    with pytest.raises(PlanError, match="of another model"):
        kanna.convert(tmp_path / "gemma2", tmp_path / "m.gguf", statistics=calibrated[0].folder)
    assert not (tmp_path / "m.gguf").exists()


def test_damaged_statistics_are_named(
    calibrated: tuple[statistics.Statistics, Any], llama: Path, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "stats"
    with pytest.raises(PlanError, match="no statistics"):
        kanna.convert(llama, tmp_path / "m.gguf", statistics=folder)
    shutil.copytree(calibrated[0].folder, folder)
    (folder / "layer-00001.safetensors").write_bytes((folder / "layer-00001.safetensors").read_bytes()[:1000])
    with pytest.raises(FormatError, match=r"layer-00001\.safetensors"):
        kanna.convert(llama, tmp_path / "m.gguf", encoding="q4_0", statistics=folder)
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"version": 99}))
    with pytest.raises(FormatError, match="version 99"):
        statistics.read(folder)
    del index["sites"]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="damaged"):
        statistics.read(folder)


BAD_TEXTS: dict[str, tuple[str, bytes, str]] = {
    "empty": ("t.txt", b"", "is empty"),
    "blank": ("t.txt", b" \n\n", "is empty"),
    "tiny": ("t.txt", b"Hello there.", "tokens"),
    "latin-1": ("t.txt", "Müller ".encode("latin-1") * 500, "not UTF-8"),
    "no lines": ("t.jsonl", b"\n\n", "is empty"),
    "broken line": ("t.jsonl", b'{"text": "good"}\n{"text": \n', "line 2"),
    "another key": ("t.jsonl", b'{"content": "x"}\n', "line 1"),
    "a list": ("t.jsonl", b"[1, 2]\n", "line 1"),
    "no role": ("t.jsonl", b'{"messages": [{"content": "Hello"}]}\n', "line 1"),
    "no string": ("t.jsonl", b'{"messages": [{"role": "user", "content": 1}]}\n', "line 1"),
}


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_text_that_cannot_be_used(kind: str, llama: Path, tmp_path: Path) -> None:
    name, data, said = BAD_TEXTS[kind]
    (tmp_path / name).write_bytes(data)
    words = ["calibrate", str(llama), "-o", str(tmp_path / "stats"), "--calibration", str(tmp_path / name), "--quiet"]
    run = CliRunner().invoke(cli, words)
    assert run.exit_code == 2, run.output
    assert said in run.stderr and "Expected" in run.stderr
    assert not (tmp_path / "stats").exists()


def test_places_that_cannot_be_used(llama: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.txt"):
        kanna.calibrate(llama, tmp_path / "stats", calibration=[tmp_path / "absent.txt"])
    with pytest.raises(UsageError, match="10 tokens"):
        kanna.calibrate(llama, tmp_path / "stats", calibration=[text], tokens=10)
    with pytest.raises(OutputError, match="is a file"):
        kanna.calibrate(llama, text, calibration=[text], tokens=TOKENS)


def test_conversations_are_rendered_and_short_lines_joined(llama: Path, tmp_path: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": f"What is {i}\u2028?"}]} for i in range(200)]
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    model = families.load_model(kanna.open_source(llama))
    (document,), _ = texts.documents([path], model)
    assert document.text.startswith("<|im_start|>user\nWhat is 0\u2028?<|im_end|>")
    assert kanna.calibrate(llama, tmp_path / "stats", calibration=[path], tokens=TOKENS).tokens == TOKENS


SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (None, "System: Be brief.\nUser: Hello"),
        ("{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}", "user=Be brief.\n\nHello;"),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
            "{% for m in messages %}{{ m.content }};{% endfor %}",
            "Be brief.\n\nHello;",
        ),
        ("{% for m in messages %}{{ m.role == 'system' }} {{ m.content }};{% endfor %}", "True Be brief.;False Hello;"),
    ],
)  # fmt: skip
def test_system_turns_of_every_kind_of_template(template: str | None, wanted: str, llama: Path) -> None:
    model = families.load_model(kanna.open_source(llama))
    model.metadata.pop("tokenizer.chat_template", None)
    if template is not None:
        model.metadata["tokenizer.chat_template"] = string(template)
    assert texts.conversation(SYSTEM, model) == wanted


def test_a_template_that_refuses_everything(llama: Path, tmp_path: Path) -> None:
    model = families.load_model(kanna.open_source(llama))
    model.metadata["tokenizer.chat_template"] = string("{{ raise_exception('never') }}")
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": SYSTEM}))
    with pytest.raises(UsageError, match="line 1.*never"):
        texts.documents([path], model)
    found, _ = texts.documents(None, model)  # the built-in set is read plainly then
    assert any("User: " in d.text for d in found if d.domain == "chat")


WHERE = {
    "the embedding": "model.embed_tokens.weight",
    "layer 1": "model.layers.1.mlp.down_proj.weight",
    "the last normalisation": "model.norm.weight",
}


@pytest.mark.parametrize("where", WHERE)
def test_weights_that_are_not_numbers_are_found(where: str, tmp_path: Path, text: Path) -> None:
    model = tiny_models.make("llama", tmp_path / "model")
    with torch.no_grad():
        model.get_parameter(WHERE[where]).fill_(float("nan"))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(KannaError, match=f"the activations of {where} are not numbers"):
        kanna.calibrate(tmp_path / "model", tmp_path / "stats", calibration=[text], tokens=TOKENS)
    assert not (tmp_path / "stats" / "index.json").exists()


def test_the_built_in_set(llama: Path) -> None:
    model = families.load_model(kanna.open_source(llama))
    found, digest = texts.documents(None, model)
    assert {d.domain for d in found} == {"chat", "code", "languages", "prose"}
    assert texts.documents(None, model)[1] == digest
    names = {p.name for p in texts.FOLDER.iterdir() if p.suffix in (".txt", ".jsonl")}
    assert names == {d.name for d in found}
    for document in found:
        assert "\ufffd" not in document.text and len(document.text) > 2000, document.name
    for line in (texts.FOLDER / "chat.jsonl").read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        assert {m["role"] for m in messages} <= {"system", "user", "assistant"} and len(messages) >= 2
    windows = cut(found, model, tokens=40 * WINDOW)
    counts = [windows.domains.count(d) for d in ("chat", "code", "languages", "prose")]
    assert min(counts) >= 8, "a mixture, not one kind after another"
    assert windows.held.sum() >= 4 and windows.held_text


def test_gradients_are_those_of_the_rows(llama: Path, text: Path, calibrated: Any, tmp_path: Path) -> None:
    """Mean square gradients by hand on the complete model, in the row order of GGUF."""
    windows = windows_of(llama, text, 2 * WINDOW)
    model = families.load_model(kanna.open_source(llama))
    from kanna.progress import Silent

    gradients.gradients(model, windows, tmp_path, "key", device="cpu", progress=Silent())
    found = gradients.read(tmp_path)
    whole = tiny_models.make("llama", tmp_path / "model").requires_grad_(False)
    taken: dict[str, Any] = {}

    def listen(name: str) -> Callable[..., None]:
        def add(gradient: Any) -> None:
            taken[name] = taken.get(name, 0) + gradient.reshape(-1, gradient.shape[-1]).double().square().sum(0)

        def hook(_module: Any, _given: Any, out: Any) -> None:
            out.requires_grad_(True)
            out.register_hook(add)

        return hook

    for name in ("model.embed_tokens", "model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj", "lm_head"):
        whole.get_submodule(name).register_forward_hook(listen(name))
    torch.manual_seed(gradients._SEED)
    for row in windows.ids:
        logits = whole(input_ids=torch.from_numpy(row.astype(np.int64))[None], use_cache=False).logits[0]
        chances = torch.log_softmax(logits, -1)
        chances.gather(1, torch.multinomial(chances.detach().exp(), 1)).sum().backward()
    expected = {name: (total / windows.ids.size).numpy() for name, total in taken.items()}
    # Rows of queries are in another order in a GGUF: find it by the weights themselves.
    ours, theirs = model.tensors["blk.1.attn_q.weight"], whole.model.layers[1].self_attn.q_proj.weight.numpy()
    place = {row.tobytes(): i for i, row in enumerate(theirs)}
    order = [place[row.tobytes()] for row in ours.rows(0, len(theirs))]
    assert order != sorted(order)
    pairs = {
        "blk.1.attn_q.weight": expected["model.layers.1.self_attn.q_proj"][order],
        "blk.2.ffn_down.weight": expected["model.layers.2.mlp.down_proj"],
        "output.weight": expected["lm_head"],
        "embedding": expected["model.embed_tokens"],
    }
    for name, values in pairs.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-2, err_msg=name)
    again = (tmp_path / gradients.FILE).stat().st_mtime_ns
    gradients.gradients(model, windows, tmp_path, "key", device="cpu", progress=Silent())
    assert (tmp_path / gradients.FILE).stat().st_mtime_ns == again, "kept for the same key"


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_gradients_of_a_scaled_embedding_are_of_the_table(name: str, tmp_path: Path, text: Path) -> None:
    """An error in one value of the table moves the loss as its gradient says."""
    from kanna.progress import Silent

    whole = tiny_models.make(name, tmp_path / "model")
    windows = windows_of(tmp_path / "model", text, TOKENS)
    model = families.load_model(kanna.open_source(tmp_path / "model"))
    gradients.gradients(model, windows, tmp_path, "key", device="cpu", progress=Silent())
    found = gradients.read(tmp_path)["embedding"]
    # The same quantity, from transformers' own model: what an error in the table does passes the scale first.
    embedding = whole.requires_grad_(False).model.embed_tokens
    seen: list[torch.Tensor] = []

    def listen(_module: torch.nn.Module, _given: object, out: torch.Tensor) -> torch.Tensor:
        out.requires_grad_(True)
        out.register_hook(seen.append)
        return out

    embedding.register_forward_hook(listen)
    torch.manual_seed(gradients._SEED)
    for row in windows.ids:
        ids = torch.from_numpy(row.astype(np.int64))[None]
        chances = torch.log_softmax(whole(input_ids=ids, use_cache=False).logits[0], -1)
        chances.gather(1, torch.multinomial(chances.detach().exp(), 1)).sum().backward()
    scale = float(getattr(embedding, "scalar_embed_scale", 1.0))
    level = torch.cat([g[0] for g in seen]).square().mean().item() * scale**2
    # Labels are drawn anew, so the level is about the same; the scale, forgotten, would be a factor of hundreds.
    assert 0.5 < found.mean() / level < 2
