"""Other tools for the same task, beside this project: same rows, model, epochs, seed and threads."""
