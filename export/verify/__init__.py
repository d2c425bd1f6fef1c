"""What can be checked of a bundle's claims, here and now; what cannot be checked is said so."""

from export.verify.claim import Claim, Status
from export.verify.origin import Origin
from export.verify.verification import verify

__all__ = ["Claim", "Origin", "Status", "verify"]
