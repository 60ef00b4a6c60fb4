"""The `labs` command: one file a command, each imported only when it is used."""
