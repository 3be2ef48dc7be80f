"""Architecture only: the decoder, its parts, and model folders in the published layouts."""
