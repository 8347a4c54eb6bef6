"""The commands, by what they are about: a cohort in a store, one study on this machine, what is installed here."""
