"""What the chaos suite shares: the line in which a run tells its figures."""

from tests.support.figures import tell

__all__ = ["tell"]
