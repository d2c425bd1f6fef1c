"""Methods against their controls over several seeds: what may be claimed, and how little could have been seen."""
