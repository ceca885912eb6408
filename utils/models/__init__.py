"""Models and how texts reach them."""
