"""From a recipe to verified, measured files: what is asked, what is done already, what was made."""
