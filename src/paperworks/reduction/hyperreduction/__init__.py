"""Hyper-reduced models of parts that creep, which tell when they are wrong and mend themselves."""
