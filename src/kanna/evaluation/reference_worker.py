"""Logits of a source in transformers in float32, for a process of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

_NAMED = 3


def read(folder: str, ids: list[int], out: str, threads: int) -> dict[str, Any]:
    """Write the logits after each token; {"failure": why} where transformers gives none.

    Args:
        folder: Of a Hugging Face model.
        ids: What it reads.
        out: The file that gets them, f32 [tokens, vocabulary] as NumPy saves it.
        threads: Threads it computes with.
    """
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    try:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model, about = loaded
        # It would compute with numbers by chance.
        if absent := sorted(about["missing_keys"]):
            names = ", ".join(absent[:_NAMED])
            return {"failure": f"it finds no weights in the source for {names}"}
        with torch.inference_mode():
            logits = model.eval()(torch.tensor([ids])).logits[0].float().numpy()
    except Exception as error:  # whatever a model's class raises
        return {"failure": f"it does not load the source ({type(error).__name__}: {error})"[:300]}
    np.save(out, logits)
    return {"name": f"transformers {transformers.__version__}"}
