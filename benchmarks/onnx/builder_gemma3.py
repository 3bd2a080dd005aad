"""The int4 of onnxruntime-genai's model builder for Gemma 3.

    python -m benchmarks.onnx.builder_gemma3 SOURCE OUT CACHE algo_config=rtn

A fifth argument may be op_types_to_quantize=MatMul/Gather. The builder cannot read the config of
Gemma 3 with transformers 5. This is the builder as it is, with what kanna corrects for it: one set
of rope parameters per kind of layer.
"""

import sys

from onnxruntime_genai.models import builder

from kanna.formats.onnx import graph_fixes


def main(source: str, out: str, cache: str, *options: str) -> None:
    paths = ("", source, out, "int4", "cpu", cache)
    # A cache as long as the text in every layer, as kanna builds it: both are judged and timed
    # alike.
    parsed = builder.parse_extra_options(*paths, ["windowed_kv_cache=false", *options])
    graph_fixes.mend(builder, parsed["hf_details"]["hf_config"])
    builder.create_model(*paths, **parsed)


if __name__ == "__main__":
    main(*sys.argv[1:])
