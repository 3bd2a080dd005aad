"""What each stage of an optimization takes, from nothing: seconds, CPU seconds and peak memory.

    python -m benchmarks.gguf.optimize_cost --model dithered --like Q4_K_M

Every stage runs in a process of its own, whose start (0.3 s, with torch 2 s) is counted. Peak
memory is anonymous: pages of mapped files are not counted; `resident` counts them. The last row is
llama-quantize writing that size class.
"""

from __future__ import annotations

import shutil

from benchmarks.common import arguments, llamacpp, models, optimize_stages, processes, tables

from kanna.calibration import IMATRIX, TOKENS
from kanna.sources.packages import cache_dir


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--model", choices=models.NAMES, default="widened")
    parser.add_argument("--like", default="Q4_K_M")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    path = models.as_gguf(options.model)
    folder = cache_dir() / "benchmarks" / "stages" / path.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stats, plan, peer = folder / "statistics", folder / "plan.json", folder / "llama.gguf"
    runner = optimize_stages.StageRunner(
        path=path, statistics=stats, threads=options.threads, tokens=options.tokens
    )
    runs = {stage: runner.run(stage) for stage in optimize_stages.WITHOUT_BUDGET}
    quantize = llamacpp.quantize(
        path, peer, options.like, threads=options.threads, imatrix=stats / IMATRIX
    )
    peer_run = processes.run(quantize)
    runs["allocate"] = runner.run("allocate", peer.stat().st_size, plan)
    runs["write"] = runner.write(plan, folder / "ours.gguf")
    tables.print_rows(optimize_stages.rows(runs | {"llama-quantize": peer_run}), options.json)
    if not options.json:
        limit = runner.memory_limit()
        print(f"\nwriting may take {limit:.0f} MB: 300 and four of the largest second moment")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
