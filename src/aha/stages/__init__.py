"""What runs at a node of a recipe: one stage a file, the only place that wires the areas together."""
