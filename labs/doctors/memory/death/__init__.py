"""Why a run died, from what it left behind: the rules, and the report on it."""
