"""What a synthetic dataset is worth: models trained on it, judged on real patients."""
