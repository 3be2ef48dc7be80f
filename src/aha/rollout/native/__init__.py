"""The engine of our own: a scheduler in pure Python over one runner that touches the device."""
