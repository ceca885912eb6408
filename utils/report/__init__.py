"""What a person looks at: report pages, pictures, model cards, trackers."""
