"""Problem families: a seeded generator and a checker each, and a loader for your own files."""
