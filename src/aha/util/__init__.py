"""Leaves that every area may use: seed streams and files."""
