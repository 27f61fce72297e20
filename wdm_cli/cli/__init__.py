"""The command line: one file a command; each parses, calls the engine and shows what came out."""
