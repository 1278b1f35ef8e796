"""What lies below --input_dir: its one layout, whose images are whose, what goes into no row; opens none."""
