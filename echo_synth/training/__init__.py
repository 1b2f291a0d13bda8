"""The training engine. Handed a model and a loss; knows no configuration objects of models."""
