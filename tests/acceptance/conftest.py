"""What the acceptance suite shares: the line in which a test tells what it measured."""

from tests.support.figures import tell

__all__ = ["tell"]
