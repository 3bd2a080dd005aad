"""The model card that the hub shows, with the measured numbers."""

from __future__ import annotations

from typing import Any

import yaml

from kanna import formats as known
from kanna._util.units import format_size


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
    parts = [_front_matter(data, rows), f"# {title} {kinds}\n", _lead(data, own)]
    parts += [f"> **Note.** {note[:1].upper() + note[1:]}.\n" for note in data["notes"]]
    parts.append(_numbers(data, rows, own))
    parts.append(
        _run(
            data,
            own or next((r for r in rows if r["name"] == data["recommended"]["name"]), rows[0]),
        )
    )
    parts.append(_provenance(data, own))
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
    return "---\n" + yaml.safe_dump(head, sort_keys=False, allow_unicode=True) + "---\n"


def _lead(data: dict[str, Any], own: dict[str, Any] | None) -> str:
    if own is None:
        pick = data["recommended"]
        advice = (
            f"**{pick['name']}** is the one to start with. {pick['why']}"
            if pick["name"]
            else pick["why"]
        )
        formats = _formats([r for r in data["rows"] if r["role"] != "floor"])
        runtimes = ", ".join(known.get(f).runtime_title for f in formats)
        runtimes = (
            "llama.cpp and every runtime built on it" if formats == [known.DEFAULT] else runtimes
        )
        return f"{data['name']} for {runtimes}, unmodified.\n\n{advice}\n"
    gate = {
        "proved": "It passed",
        "failed": "**It failed**",
        "unprovable": "It could not be put through",
    }.get(own["gate"] or "", "It was not put through")
    bits = f"{own['bits_per_weight']:.2f} bits per weight ({own['precision_class']})"
    return (
        f"{data['name']} as {own['name']}: {format_size(own['file_bytes'])}, {bits}. {gate} "
        "kanna's gate (tensors, tokenizer, chat template and logits, in stock "
        f"{known.get(own.get('format', known.DEFAULT)).runtime_title}).\n"
    )


def _numbers(data: dict[str, Any], rows: list[dict[str, Any]], own: dict[str, Any] | None) -> str:
    lines = [
        "## Measured\n",
        "| file | size | bits per weight | KL divergence, mean | same top token | perplexity "
        "| tokens/s | peak memory | gate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        bold = "**" if row is own else ""
        cells = [
            f"{bold}{row['file'] or row['name']}{bold}",
            format_size(row["file_bytes"]) if row["file_bytes"] else "–",
            _num(row["bits_per_weight"], 2),
            _num(row["kl_mean"], 5),
            _num(row["top1"], 1, 100, " %"),
            _num(row["perplexity"], 2),
            _num(row["gen_tps"], 1),
            format_size(row["peak_bytes"]) if row["peak_bytes"] else "–",
            row["gate"] or "–",
        ]
        lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
    evaluation, environment = data["evaluation"], data["environment"]
    if evaluation.get("positions"):
        lines.append(
            f"\nKL divergence in nats against {evaluation['reference']}, "
            f"at {evaluation['positions']:,} positions of {evaluation['text']}."
        )
    machine = ", ".join(
        str(environment[k]) for k in ("CPU", "GPU", "llama.cpp") if environment.get(k)
    )
    if machine:
        lines.append(f"Speed and memory on: {machine}.")
    return "\n".join(lines) + "\n"


def _run(data: dict[str, Any], row: dict[str, Any]) -> str:
    file = row["file"] or "model.gguf"
    chat = data["source"].get("chat_template")
    talk = (
        f"llama-cli -m {file} -cnv" if chat else f'llama-cli -m {file} -p "Once upon a time" -n 128'
    )
    own = f"kanna chat {file}" if chat else f'kanna generate {file} "Once upon a time"'
    if row.get("format", known.DEFAULT) != known.DEFAULT:
        runtime = known.get(row["format"]).runtime_title
        return f"## Run\n\nWith unmodified {runtime}, or with kanna:\n\n```sh\n{own}\n```\n"
    serve = f"llama-server -m {file}"
    return (
        "## Run\n\nWith any unmodified [llama.cpp](https://github.com/ggml-org/llama.cpp), "
        "or with kanna:\n\n"
        f"```sh\n{talk}\n{serve}     # an OpenAI-compatible server\n{own}\n```\n"
    )


def _provenance(data: dict[str, Any], own: dict[str, Any] | None) -> str:
    source = data["source"]
    origin = source.get("base_model") or source["name"]
    lines = ["## Provenance\n", f"- Source: {origin} ({source.get('type') or 'unknown type'})"]
    if source.get("revision"):
        lines.append(f"- Revision: {source['revision']}")
    if source.get("hash"):
        lines.append(f"- Hash of the source: `{source['hash']}`")
    for row in [own] if own else []:
        if row["substitutions"]:
            wanted = sorted({f"{s['wanted']} → {s['got']}" for s in row["substitutions"]})
            lines.append(
                f"- {len(row['substitutions'])} tensors could not hold the encoding meant for them "
                f"({', '.join(wanted)}): real {row['bits_per_weight']:.2f} bits per weight, "
                f"nominal {row['nominal_bits'] or 0:.2f}"
            )
        lines += [f"- {note}" for note in row["notes"]]
    command = own["command"] if own and own.get("command") else data["command"]
    lines.append(
        f"- Made with kanna {data['version']}; plan and hashes of the source are in the file's "
        "metadata too\n"
    )
    return "\n".join(lines) + f"\n```sh\n{command}\n```\n"


def _num(value: float | None, digits: int, scale: float = 1.0, unit: str = "") -> str:
    return "–" if value is None else f"{value * scale:.{digits}f}{unit}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
