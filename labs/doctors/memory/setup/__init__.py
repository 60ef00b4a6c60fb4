"""What a plan stands for: its configuration, its batch, its model, its optimizer."""
