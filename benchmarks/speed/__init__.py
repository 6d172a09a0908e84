"""What the benches of speed share: weights and cases without meaning, arithmetic, kernel times."""
