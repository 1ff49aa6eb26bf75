KNOWN_WRONG: dict[str, frozenset[str]] = {"full": frozenset(), "low": frozenset(), "compiled": frozenset()}
