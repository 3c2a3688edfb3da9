"""The commands: each module parses its options, calls what does the work, and prints."""
