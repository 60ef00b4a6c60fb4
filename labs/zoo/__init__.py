"""The shipped tiny models: weights with a card each, and the builder that makes them again."""
