"""The same model in every format, and what each spends its bytes on."""
