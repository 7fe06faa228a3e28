"""A for-loop is all you need. For solving the inverse problem in the case of personalized tumor growth modeling."""
