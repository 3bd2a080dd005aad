"""Time of `kanna fit` on local sources, whole command, median.

python -m benchmarks.gguf.fit_time
"""

from __future__ import annotations

from statistics import median

from benchmarks.common import arguments, models, processes, tables

from kanna.sources import packages

SOURCES = {
    "GGUF, vocabulary 49k": models.dithered,
    "folder, vocabulary 128k, 8B": models.hollow,
    "folder, vocabulary 152k, 30B-A3B": models.hollow_experts,
    "folder, vocabulary 262k": models.gemma3,
    "GGUF, vocabulary 262k": packages.gemma3_270m_gguf,
}


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for name, make in SOURCES.items():
        command = processes.kanna("fit", make(), "--memory", "8GB")
        processes.run(command)
        runs = [processes.run(command) for _ in range(options.repeats)]
        seconds, cpu = (median(r.seconds for r in runs), median(r.cpu for r in runs))
        rows.append({"source": name, "s": seconds, "CPU s": cpu})
    tables.print_rows(rows, options.json)


if __name__ == "__main__":
    main()
