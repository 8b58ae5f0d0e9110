"""The command line: parsing and printing, one file per verb, imported when the verb is called."""
