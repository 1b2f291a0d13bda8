"""What a run folder is: description, weights, state, and who may write there."""
