"""tinyohem: token-level online hard example mining for small language models."""

__version__ = "0.1.0"
