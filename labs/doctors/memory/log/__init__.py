"""Why a run died, from its log alone: reading, signs, rules. Standard library only, Python 3.9."""
