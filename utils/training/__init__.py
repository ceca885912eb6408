"""Everything around a training."""
