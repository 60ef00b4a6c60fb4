"""What the data doctor says: one Report, as a table on the terminal, as JSON, as a page with pictures."""
