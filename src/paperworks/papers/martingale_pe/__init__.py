"""Policy Evaluation and Temporal-Difference Learning in Continuous Time and Space: A Martingale Approach."""
