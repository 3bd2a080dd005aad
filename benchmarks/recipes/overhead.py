"""A recipe of twelve steps beside the bare verbs, and the same recipe run again.

    python -m benchmarks.recipes.overhead [--model builtin:smollm2-135m] [--rounds 5]

The verbs are called by a script, one after another in one process, as the recipe calls them; both
take turns, each run in a process and a folder of its own. The second run of the recipe has nothing
to do.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.common import processes
from benchmarks.common.processes import Run

from kanna.recipes import records
from kanna.sources import locate

TEXT = Path(__file__).parents[1] / "common" / "text" / "prose.txt"
PRESETS = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
WINDOWS = 2
RECIPE = f"""
name: twelve steps
variables: {{model: MODEL, text: MODEL}}
steps:
  small:
    verb: convert
    for: {{preset: [{", ".join(PRESETS)}]}}
    with: {{source: "${{model}}", preset: "${{preset}}", threads: 1}}
  about:
    verb: inspect
    with: {{source: "${{small}}"}}
  quality:
    verb: evaluate
    with:
      artefact: ${{small}}
      reference: ${{model}}
      text: ${{text}}
      windows: {WINDOWS}
      threads: 1
"""
BARE = """
import sys
from pathlib import Path

import kanna

model, text, out, windows, *presets = sys.argv[1:]
for preset in presets:
    path = Path(out) / f"{preset}.gguf"
    kanna.convert(model, path, preset=preset, threads=1)
    kanna.inspect(path)
    kanna.evaluate(path, reference=model, text=text, windows=int(windows), threads=1)
"""


def main() -> None:
    """Print seconds of both, their ratio, and seconds of a second run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="builtin:smollm2-135m")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        model, text = locate(given.model).absolute(), base / "text.txt"
        shutil.copy(TEXT, text)
        recipe = base / "twelve.yaml"
        recipe.write_text(
            RECIPE.replace("text: MODEL", f"text: {text}").replace("MODEL", str(model))
        )
        bare = [sys.executable, "-c", BARE, model, text, base, str(WINDOWS), *PRESETS]
        whole = [sys.executable, "-m", "kanna", "run", recipe, "-o", base / "run", "--quiet"]
        runs: dict[str, list[Run]] = {"bare verbs": [], "recipe": [], "recipe again": []}
        outside: list[float] = []
        for number in range(given.rounds):
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
            for preset in PRESETS:
                (base / f"{preset}.gguf").unlink(missing_ok=True)
            shutil.rmtree(base / "run", ignore_errors=True)
            order = ["bare verbs", "recipe"] if number % 2 else ["recipe", "bare verbs"]
            for name in order:
                runs[name].append(processes.run(bare if name == "bare verbs" else whole))
            manifest = records.read_manifest(base / "run")
            assert manifest is not None
            within = sum(step.seconds for step in manifest.steps)
            outside.append((manifest.seconds - within) / within)
            runs["recipe again"].append(processes.run(whole))
    print("|  | seconds | CPU seconds |\n|---|---|---|")
    for name, measured in runs.items():
        seconds, cpu = (
            median(values) for values in zip(*((r.seconds, r.cpu) for r in measured), strict=True)
        )
        print(f"| {name} | {seconds:.2f} | {cpu:.2f} |")
    shares = ", ".join(f"{share:.2%}" for share in outside)
    print(f"time of a run outside its verbs ÷ within: median {median(outside):.2%} of {shares}")
    for what in ("seconds", "cpu"):
        ratios = [
            getattr(recipe, what) / getattr(bare, what)
            for recipe, bare in zip(runs["recipe"], runs["bare verbs"], strict=True)
        ]
        shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"recipe ÷ bare verbs, {what}: median {median(ratios):.3f} of {shown}")


if __name__ == "__main__":
    main()
