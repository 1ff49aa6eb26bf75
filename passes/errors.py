"""The one error of this package."""


class PassError(ValueError):
    """The pair that was asked for can't be made right: which node, why, what to do."""
