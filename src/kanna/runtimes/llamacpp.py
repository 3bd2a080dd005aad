"""llama.cpp, unmodified, through its C interface."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna import libllama
from kanna._util.nearest import no_file
from kanna._util.processes import is_disposable
from kanna.errors import FormatError, MissingError, NotFoundError, UsageError
from kanna.families.towers.pairing import check_pair
from kanna.formats import gguf, vectors
from kanna.formats.gguf import purpose
from kanna.hardware.cpu import cpu
from kanna.hardware.threads import choose_threads
from kanna.libllama import devices
from kanna.runtimes._llama_log import LOG
from kanna.runtimes.base import Availability
from kanna.runtimes.cache_types import cache_types
from kanna.runtimes.isolation import IsolatedLlamaEngine
from kanna.sources import adapter
from kanna.tokenizer.repeated import repeated

if TYPE_CHECKING:
    from kanna.runtimes.llama_engine import LlamaEngine

CACHES = ("f16", "q8_0", "q8_0:q4_0", "q4_0")
"""Types of cached keys and values to choose from, the most exact first; see `cache_types`."""
_LEAST_CONTEXT = 4
"""Tokens; llama.cpp aborts on fewer."""

# llama.cpp's own limit.
_MAX_LAYERS = 512

# What the build calls a CPU feature → the CPU flag that makes it possible (Linux spelling).
# AMX is not among them: its kernels crash on small matrices, and builds are better without.
_FEATURES = {
    "AVX": "avx",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX_VNNI": "avx_vnni",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "NEON": "asimd",
    "FP16_VA": "asimdhp",
    "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
}


def library() -> Any:
    """llama.cpp's C functions with its log silenced.

    Raises MissingError when it is not installed or does not load.
    """
    used = libllama.library()
    # Each time: whoever else uses the library in this process may have taken its only log over.
    LOG.attach(used.functions)
    _begin(used)
    return used.functions


@cache
def _begin(used: libllama.Library) -> None:
    used.functions.llama_backend_init()
    devices.load_backends(used)


def require_device() -> None:
    """Raise MissingError where the llama.cpp in use was built for a device that is not here."""
    library()
    devices.require(libllama.library(), heard())


def heard() -> str:
    """What ggml said of devices and drivers when its backends were loaded."""
    return "; ".join(line.rstrip(".") for line in LOG.of_devices)


def require_offload(path: Path) -> None:
    """Raise MissingError where the model that was loaded last is not on the device in use.

    Args:
        path: The model.
    """
    build = libllama.library().build
    if build.backend == "cpu" or LOG.offloaded is None:
        return
    on_device, of_all = LOG.offloaded
    if on_device < of_all:
        raise MissingError(
            f"{of_all - on_device} of {of_all} layers of {path.name} stayed on the CPU, and the "
            f"runtime {build.name} is in use: {LOG.why()}",
            expected="all layers on the device",
            todo="a smaller model or preset; KANNA_LLAMACPP=auto computes on the CPU",
        )


def parse_system_info(text: str) -> dict[str, dict[str, str]]:
    """`CPU : AVX = 1 | CUDA : ARCHS = 890 |` → {"CPU": {"AVX": "1"}, "CUDA": {"ARCHS": "890"}}."""
    flags: dict[str, dict[str, str]] = {}
    backend = "CPU"
    for part in text.split("|"):
        part = part.strip()
        if " : " in part:
            backend, part = (p.strip() for p in part.split(" : ", 1))
        name, equal, value = part.partition("=")
        if equal:
            flags.setdefault(backend, {})[name.strip()] = value.strip()
    return flags


def judge_build(info: dict[str, dict[str, str]], flags: frozenset[str]) -> dict[str, Any]:
    """Compare what the build uses with what the CPU offers.

    `missing` are the features this CPU has and the build leaves unused; a build with none is
    native.
    """
    used = {name for name, value in info.get("CPU", {}).items() if value not in {"0", ""}}
    missing = [name for name, flag in _FEATURES.items() if flag in flags and name not in used]
    return {"native": not missing, "features": sorted(used), "missing": missing}


class LlamaCppRuntime:
    """llama.cpp, for GGUF files; see `Runtime`."""

    name = "llamacpp"
    title = "llama.cpp"
    extra = "llamacpp"
    summary = "llama.cpp, unmodified, through its C interface"
    has_thread_setting = True
    slow_on_cpu = False
    is_reference = False

    def opens(self, path: Path) -> bool:
        """Any file: its header decides."""
        return not path.is_dir()

    def trained_context(self, path: Path) -> int | None:
        """The context length in the metadata."""
        file = gguf.read(path)
        length = file.value(f"{file.value('general.architecture')}.context_length")
        return int(length) if isinstance(length, (int, float)) else None

    def load(self) -> Any:
        """llama_cpp's C interface; raises MissingError."""
        return library()

    def available(self) -> Availability:
        """Version and build; `ok=False` with the command that installs it where it is absent."""
        try:
            lib, used = library(), libllama.library()
            require_device()
        except MissingError as error:
            return Availability(ok=False, how_to_install=error.todo, remark=error.found)
        info = parse_system_info(lib.llama_print_system_info().decode("utf-8", "replace"))
        build = judge_build(info, cpu().flags)
        build["gpu_offload"] = bool(lib.llama_supports_gpu_offload())
        build["kind"], build["package"] = used.build.name, used.build.distribution
        build["devices"] = [one.to_dict() for one in devices.devices(used)]
        return Availability(
            ok=True,
            version=used.version,
            build=build,
            backends=sorted(info) or ["CPU"],
            how_to_install=_better(used, build["native"]),
            remark=_remark(used, build["missing"]),
        )

    def open(
        self,
        path: str | Path,
        *,
        context: int = 4096,
        threads: int | None = None,
        gpu_layers: int | None = None,
        vocab_only: bool = False,
        cache: str = "f16",
        mmap: bool = True,
        adapters: Mapping[str | Path, float] | None = None,
    ) -> LlamaEngine | IsolatedLlamaEngine:
        """Load a GGUF in a process of its own; see `Runtime.open`.

        Raises MissingError, FormatError, UsageError.

        Args:
            path: The file, or the first of a split one.
            context: Tokens of prompt and answer together; 0: as trained.
            threads: None: one per physical core that other programs leave free.
            gpu_layers: None: llama.cpp's own choice.
            vocab_only: Load the tokenizer alone.
            cache: Encoding of cached keys and values, or KEYS:VALUES.
            mmap: Map the file; otherwise its tensors are read into memory of the process.
            adapters: LoRA adapters in GGUF with the scale of each; 1 is as trained.
        """
        _require_context(context)
        cache_types(cache)
        options: dict[str, Any] = {
            "context": context,
            "threads": threads or choose_threads().count,
            "gpu_layers": gpu_layers,
            "vocab_only": vocab_only,
            "cache": cache,
            "mmap": mmap,
        }
        scales = {str(name): float(scale) for name, scale in (adapters or {}).items()}
        return self._load(Path(path), options, {"adapters": scales}, text=not vocab_only)

    def _load(
        self, path: Path, options: dict[str, Any], beside: dict[str, Any], *, text: bool
    ) -> LlamaEngine | IsolatedLlamaEngine:
        """The engine; `text` refuses a file that generates none.

        `beside` are its adapters and its tower.
        """
        lib = library()
        if not path.is_file():
            raise NotFoundError(no_file(path), expected="a .gguf file")
        check_header(path)
        if not is_disposable():
            if text:
                purpose.require_text(path)
            return IsolatedLlamaEngine(self.name, self.title, path, {**options, **beside})
        from kanna.runtimes.llama_engine import LlamaEngine

        require_device()
        engine = LlamaEngine(lib, path, **options)
        try:
            if options.get("gpu_layers") is None and not options.get("vocab_only"):
                require_offload(path)
            engine.adapt(beside.get("adapters") or {})
            if mmproj := beside.get("mmproj"):
                engine.look(mmproj)
        except (FormatError, MissingError):
            engine.close()
            raise
        return engine

    def open_adapted(
        self,
        path: str | Path,
        adapters: Mapping[str, float],
        *,
        context: int = 4096,
        threads: int | None = None,
    ) -> LlamaEngine | IsolatedLlamaEngine:
        """Load a GGUF with LoRA adapters; see `TakesAdapters`."""
        return self.open(path, context=context, threads=threads, adapters={**adapters})

    def open_seeing(
        self,
        path: str | Path,
        mmproj: str | Path,
        adapters: Mapping[str, float],
        *,
        context: int = 4096,
        threads: int | None = None,
    ) -> LlamaEngine | IsolatedLlamaEngine:
        """Load a GGUF with its vision tower; see `TakesPictures`."""
        _require_context(context)
        text, tower = Path(path), Path(mmproj)
        check_pair(text, tower)
        check_header(tower)
        beside = {"adapters": {**adapters}, "mmproj": str(mmproj)}
        options = {"context": context, "threads": threads or choose_threads().count}
        return self._load(text, options, beside, text=True)

    def open_encoder(
        self, path: str | Path, *, threads: int | None = None
    ) -> LlamaEngine | IsolatedLlamaEngine:
        """Load a GGUF for its vectors, of texts as long as it was trained on."""
        purpose.require_vectors(Path(path))
        return self.open_ranker(path, threads=threads)

    def open_ranker(
        self, path: str | Path, *, threads: int | None = None
    ) -> LlamaEngine | IsolatedLlamaEngine:
        """Load a GGUF for scores or vectors, of texts as long as it was trained on."""
        options = {"context": 0, "threads": threads or choose_threads().count, "gpu_layers": None}
        return self._load(Path(path), options, {}, text=False)


def _require_context(context: int) -> None:
    if context < 0 or 0 < context < _LEAST_CONTEXT:
        raise UsageError(
            f"a context of {context} tokens",
            expected=f"0 (as trained), or {_LEAST_CONTEXT} and more: llama.cpp ends on fewer",
        )


def _better(used: libllama.Library, native: bool) -> str:
    """The command that gets a faster build; "" where one is here, whether it is used or not."""
    absent = libllama.NATIVE.folder is None or used.build is libllama.NATIVE
    return libllama.NATIVE.install if absent and not native else ""


def _remark(used: libllama.Library, missing: list[str]) -> str:
    """What the build in use leaves unused, and why it is not another one."""
    parts = [f"the native build is passed over: {used.passed_over}"] if used.passed_over else []
    if missing:
        parts.append(
            f"this {used.build.name} build leaves {', '.join(missing)} of this CPU unused; a build "
            "compiled here uses them, and `kanna doctor` then measures what it gains"
        )
    return "; ".join(parts)


def check_header(path: Path) -> None:
    """Raise FormatError for a broken file, UnsupportedError for an adapter.

    Our own parser reads it first: it has bounds where llama.cpp may abort the process.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise FormatError(
            f"{path} starts with {magic!r}", expected="b'GGUF': a file that llama.cpp can load"
        )
    file = gguf.read(path)
    adapter.refuse_gguf(file.value("general.type"), path.name)
    reason = _fatal(file, file.value("general.architecture"))
    if reason:
        raise FormatError(
            f"{path} would end llama.cpp: {reason}", todo="convert again from the original model"
        )


def _fatal(file: gguf.GGUFFile, arch: object) -> str:
    """Why llama.cpp would abort the process instead of refusing the file; "" if it would not."""
    layers = file.value(f"{arch}.block_count")
    if isinstance(layers, int) and not 1 <= layers <= _MAX_LAYERS and file.tensors:
        return f"{arch}.block_count is {layers}"
    if (pooling := purpose.pooling(file)) not in vectors.KINDS:
        return f"{arch}.pooling_type is {pooling}"
    for key, value in file.metadata.items():
        if key.startswith(f"{arch}.") and key.endswith("_epsilon") and not 0 <= value.value < 1:
            return f"{key} is {value.value}"
    if file.value("tokenizer.ggml.model") == "llama":
        # A text with a character that is no token is looked up byte by byte.
        tokens = file.value("tokenizer.ggml.tokens", ())
        if not ("<0x0A>" in tokens or "\n" in tokens):
            return "the vocabulary has no bytes to fall back on"
    return repeated(file.value("tokenizer.ggml.tokens"))


RUNTIME = LlamaCppRuntime()
