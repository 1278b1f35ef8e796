"""Inside one Spark task: references -> results, a row out for each row in. Knows no run and no output."""
