"""Label generation: prompts, answers as text and as a tree, the search over it."""
