"""kanna: plane language models down until they fit the device."""

__version__ = "0.1.0"
