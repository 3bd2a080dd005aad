"""llama.cpp's shared library: which build of it, and its C interface.

llama.cpp is used as it is built by others, without compiling anything: `builds` says where it may
lie, `interface` loads it after its structures were compared with the header's.
"""

from kanna.libllama.builds import NATIVE, PREBUILT, Build
from kanna.libllama.interface import Library, library, load, quantizers

__all__ = ["NATIVE", "PREBUILT", "Build", "Library", "library", "load", "quantizers"]
