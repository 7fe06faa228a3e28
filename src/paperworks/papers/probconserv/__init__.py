"""Learning Physical Models that Can Respect Conservation Laws."""
