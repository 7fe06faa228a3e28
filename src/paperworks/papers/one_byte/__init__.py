"""Just One Byte (per gradient)."""
