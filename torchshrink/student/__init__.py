"""Another architecture learns what a trained model does: which one, and how it is taught."""

from torchshrink.student.architecture import make
from torchshrink.student.teach import teach

__all__ = ["make", "teach"]
