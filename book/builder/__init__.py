"""Turns pages into a book: page.md -> notebook -> executed once, kept -> HTML."""
