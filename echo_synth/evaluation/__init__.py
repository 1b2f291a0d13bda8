"""What a dataset, a model or a prediction is worth: one question a file."""
