"""The compiler from float entropy networks to integer plans: calibration, fine-tuning, tables, and the way back."""
