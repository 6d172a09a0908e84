"""Cases on the model's grid: how they are made, stored and listed, and what the grid loses."""
