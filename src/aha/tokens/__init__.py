"""Tokenizers and the one renderer: text to ids, prompts and examples with a loss mask."""
