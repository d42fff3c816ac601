"""`replay`: the deploy gate, which folds every stored history through the code at hand."""

__all__: list[str] = []
