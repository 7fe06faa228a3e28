"""Sound propagation in realistic interactive 3D scenes with parameterized sources using deep neural operators."""
