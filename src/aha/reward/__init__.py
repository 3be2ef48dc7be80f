"""Named rewards with a breakdown and an error status."""
