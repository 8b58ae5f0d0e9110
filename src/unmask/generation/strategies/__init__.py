"""Rules that choose which masked positions to commit; one file each."""
