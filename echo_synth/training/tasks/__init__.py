"""What is trained: one task a file, each with a loss, a validation and a preview."""
