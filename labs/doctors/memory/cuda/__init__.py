"""What a GPU does with memory that a CPU does not, as models and tables. No GPU needed."""
