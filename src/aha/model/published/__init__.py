"""Configs of published models under the name they are known by, to count without a download. One JSON file each."""
