"""From probabilities to scores: predictions, thresholds, metrics, intervals."""
