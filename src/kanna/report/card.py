"""The model card that the hub shows, with the measured numbers."""

from __future__ import annotations

from typing import Any

from kanna import formats as known
from kanna._util.units import format_size, with_range
from kanna.checks import describe_reference, gate_word
from kanna.closeness import agreement, grade, grade_name
from kanna.escaping import (
    markdown_block,
    markdown_code,
    markdown_row,
    markdown_text,
    shell_path,
    yaml_text,
)


def model_card(data: dict[str, Any], name: str | None = None) -> str:
    """Returns a README.md for the hub, as Markdown.

    Args:
        data: `CompareResult.to_dict()`.
        name: The artefact it is for; None describes the whole folder.
    """
    rows = [r for r in data["rows"] if r["role"] != "floor"]
    own = next((r for r in rows if r["name"] == name), None)
    title = data["name"] + (f" {own['name']}" if own else "")
    kinds = " and ".join(known.get(f).title for f in _formats([own] if own else rows))
    parts = [_front_matter(data, rows), f"# {markdown_text(title)} {kinds}\n", _lead(data, own)]
    picked = next((r for r in rows if r["name"] == data["recommended"]["name"]), None)
    if shown := own or picked or (rows[0] if rows else None):
        parts.append(_run(data, shown))
    parts.append(_numbers(data, rows, own))
    parts.append(_provenance(data, own))
    if data["notes"]:
        parts.append("## Notes\n")
        parts += [f"- {markdown_text(note[:1].upper() + note[1:])}" for note in data["notes"]]
        parts.append("")
    return "\n".join(parts)


def _formats(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(r.get("format", known.DEFAULT) for r in rows))


def _front_matter(data: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    source = data["source"]
    head: dict[str, Any] = {}
    if source.get("base_model"):
        head["base_model"] = source["base_model"]
        head["base_model_relation"] = "quantized"
    if source.get("license"):
        head["license"] = source["license"]
        if source.get("license_name"):
            head["license_name"] = source["license_name"]
        if source.get("license_link"):
            head["license_link"] = source["license_link"]
    if source.get("languages"):
        head["language"] = source["languages"]
    formats = _formats(rows)
    head["library_name"] = formats[0]
    head["pipeline_tag"] = "text-generation"
    kinds = [word for f in formats for word in (f, known.get(f).runtime_title)]
    head["tags"] = [
        *kinds,
        "quantized",
        *([source["family"]] if source.get("family") else []),
        "kanna",
    ]
    return "---\n" + yaml_text(head) + "---\n"


def _lead(data: dict[str, Any], own: dict[str, Any] | None) -> str:
    if own is None:
        pick = data["recommended"]
        why = pick["why"]
        advice = (
            f"**{markdown_text(pick['name'])}** is the one to start with. {markdown_text(why)}"
            if pick["name"]
            else markdown_text(why[:1].upper() + why[1:])
        )
        formats = _formats([r for r in data["rows"] if r["role"] != "floor"])
        runtimes = ", ".join(known.get(f).runtime_title for f in formats)
        runtimes = (
            "llama.cpp and every runtime built on it" if formats == [known.DEFAULT] else runtimes
        )
        return f"{markdown_text(data['name'])} for {runtimes}, unmodified.\n\n{advice}\n"
    gate = {
        "intact": "It is intact: it passed",
        "failed": "**It failed**",
        "not checkable here": "It could not be put through",
    }.get(gate_word(own["gate"]), "It was not put through")
    figures = [
        f"**{format_size(own['file_bytes'])}**, {own['bits_per_weight']:.2f} bits per weight, "
        f"{own['precision_class']}",
        _close(own),
        _fast(own),
    ]
    lines = "".join(f"- {line}\n" for line in figures if line)
    return (
        f"{markdown_text(data['name'])} as {markdown_text(own['name'])}:\n\n{lines}\n{gate} "
        "kanna's checks (tensors, tokenizer, chat template and logits, in stock "
        f"{known.get(own.get('format', known.DEFAULT)).runtime_title}).\n"
    )


def _close(row: dict[str, Any]) -> str:
    """`**close** to the original: 92 of 100 next tokens the same; some words differ …`."""
    close = grade(row["kl_mean"], row["top1"])
    if close is None:
        return ""
    same = agreement(row["top1"])
    return f"**{close.name}**" + (f": {same}" if same else "") + f"; {close.meaning}"


def _fast(row: dict[str, Any]) -> str:
    if not row["gen_tps"]:
        return ""
    spread = (row.get("speed_spread") or {}).get("gen_tps")
    return f"**{with_range(row['gen_tps'], spread, 0)} tokens/s** on the machine named below"


def _numbers(data: dict[str, Any], rows: list[dict[str, Any]], own: dict[str, Any] | None) -> str:
    cells = [_figures(row, bold="**" if row is own else "") for row in rows]
    kept = [i for i, _ in enumerate(_COLUMNS) if any(c[i] != _NONE for c in cells)]
    lines = ["## Measured\n", markdown_row([_COLUMNS[i] for i in kept]), "|" + "---|" * len(kept)]
    lines += [markdown_row([c[i] for i in kept]) for c in cells]
    evaluation, environment = data["evaluation"], data["environment"]
    if evaluation.get("positions"):
        lines.append(
            f"\nKL divergence in nats against {markdown_text(evaluation['reference'])}, "
            f"at {evaluation['positions']:,} positions of {markdown_text(evaluation['text'])}."
        )
        if sentence := describe_reference(evaluation):
            lines.append(f"{markdown_text(sentence[0].upper() + sentence[1:])}.")
    machine = ", ".join(
        str(environment[k]) for k in ("CPU", "GPU", "llama.cpp") if environment.get(k)
    )
    if machine:
        lines.append(f"Speed and memory on: {markdown_text(machine)}.")
    return "\n".join(lines) + "\n"


_NONE = "–"
_COLUMNS = (
    "file",
    "size",
    "closeness (mean KL)",
    "same next token",
    "bits per weight",
    "perplexity",
    "tokens/s",
    "peak memory",
    "checks",
)


def _figures(row: dict[str, Any], *, bold: str) -> list[str]:
    """The cells of a row, in the order of _COLUMNS."""
    name, kl = grade_name(row), _num(row["kl_mean"], 5)
    speed = (row.get("speed_spread") or {}).get("gen_tps")
    return [
        f"{bold}{markdown_text(row['file'] or row['name'])}{bold}",
        format_size(row["file_bytes"]) if row["file_bytes"] else _NONE,
        f"{name} ({kl})" if name and kl != _NONE else kl,
        _num(row["top1"], 1, 100, " %"),
        _num(row["bits_per_weight"], 2),
        _num(row["perplexity"], 2),
        with_range(row["gen_tps"], speed, 1) if row["gen_tps"] else _NONE,
        format_size(row["peak_bytes"]) if row["peak_bytes"] else _NONE,
        gate_word(row["gate"]) or _NONE,
    ]


def _run(data: dict[str, Any], row: dict[str, Any]) -> str:
    file = shell_path(row["file"] or "model.gguf")
    chat = data["source"].get("chat_template")
    talk = (
        f"llama-cli -m {file} -cnv" if chat else f'llama-cli -m {file} -p "Once upon a time" -n 128'
    )
    own = f"kanna chat {file}" if chat else f'kanna generate {file} "Once upon a time"'
    if row.get("format", known.DEFAULT) != known.DEFAULT:
        runtime = known.get(row["format"]).runtime_title
        return (
            f"## Run\n\nWith unmodified {runtime}, or with kanna:\n\n{markdown_block(own, 'sh')}\n"
        )
    serve = f"llama-server -m {file}     # an OpenAI-compatible server"
    return (
        "## Run\n\nWith any unmodified [llama.cpp](https://github.com/ggml-org/llama.cpp), "
        "or with kanna:\n\n" + markdown_block(f"{talk}\n{serve}\n{own}", "sh") + "\n"
    )


def _provenance(data: dict[str, Any], own: dict[str, Any] | None) -> str:
    source = data["source"]
    origin = source.get("base_model") or source["name"]
    kind = source.get("type") or "unknown type"
    lines = ["## Provenance\n", f"- Source: {markdown_text(f'{origin} ({kind})')}"]
    if source.get("revision"):
        lines.append(f"- Revision: {markdown_text(source['revision'])}")
    if source.get("hash"):
        lines.append(f"- Hash of the source: {markdown_code(source['hash'])}")
    for row in [own] if own else []:
        if row["substitutions"]:
            count = len(row["substitutions"])
            pairs = sorted({f"{s['wanted']} → {s['got']}" for s in row["substitutions"]})
            wanted = markdown_text(", ".join(pairs))
            lines.append(
                f"- {count} tensor{'s' if count > 1 else ''} could not hold the encoding meant "
                f"({wanted}): real {row['bits_per_weight']:.2f} bits per weight, "
                f"nominal {row['nominal_bits'] or 0:.2f}"
            )
        lines += [f"- {markdown_text(note)}" for note in row["notes"]]
    command = own["command"] if own and own.get("command") else data["command"]
    lines.append(
        f"- Made with kanna {data['version']}; plan and hashes of the source are in the file's "
        "metadata too\n"
    )
    return "\n".join(lines) + f"\n{markdown_block(command, 'sh')}\n"


def _num(value: float | None, digits: int, scale: float = 1.0, unit: str = "") -> str:
    return "–" if value is None else f"{value * scale:.{digits}f}{unit}"
