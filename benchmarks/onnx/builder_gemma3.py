"""The int4 of onnxruntime-genai's model builder for Gemma 3, whose config it cannot read with transformers 5.

    python -m benchmarks.onnx.builder_gemma3 SOURCE OUT CACHE algo_config=rtn [op_types_to_quantize=MatMul/Gather]

The builder as it is, with what kanna mends for it: one set of rope parameters per kind of layer.
"""

import sys

from onnxruntime_genai.models import builder

from kanna.formats.onnx import graph_fixes


def main(source: str, out: str, cache: str, *options: str) -> None:
    given = ("", source, out, "int4", "cpu", cache)
    # A cache as long as the text in every layer, as kanna builds it: both are judged and timed
    # alike.
    parsed = builder.parse_extra_options(*given, ["windowed_kv_cache=false", *options])
    graph_fixes.mend(builder, parsed["hf_details"]["hf_config"])
    builder.create_model(*given, **parsed)


if __name__ == "__main__":
    main(*sys.argv[1:])
