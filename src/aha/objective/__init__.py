"""Pure tensor functions: the equations of training, and the table of algorithms that combines them."""
