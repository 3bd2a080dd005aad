"""Engines in processes of their own.

A runtime in C++ may end its process: an assertion of ggml on a file with a wrong tensor, a crash in
a kernel, no memory. In a process of its own that is an error like any other, with what the runtime
wrote last. `engine.py` and `encoder.py` are the sides that ask, `child.py` is the process that
holds the model.
"""

from kanna.runtimes.isolation.encoder import IsolatedEncoder
from kanna.runtimes.isolation.engine import IsolatedEngine, IsolatedLlamaEngine

__all__ = ["IsolatedEncoder", "IsolatedEngine", "IsolatedLlamaEngine"]
