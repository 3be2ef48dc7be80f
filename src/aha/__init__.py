"""Aha: a language model becomes a reasoning model the way DeepSeek-R1 was made, every step of it in view."""

__version__ = "0.1.0"
