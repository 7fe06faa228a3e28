"""Neural Network Approximations of PDEs Beyond Linearity: A Representational Perspective."""
