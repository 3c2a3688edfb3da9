"""The studies: each module holds one, as `STUDY`."""
