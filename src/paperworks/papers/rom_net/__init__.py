"""Physics-informed cluster analysis and a priori efficiency criterion."""
