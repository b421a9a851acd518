"""What a bundle holds: copied as it is, run there, imported by nothing here."""
