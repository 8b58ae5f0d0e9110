"""Data: from a dataset's name to tokenised rows and batches."""
