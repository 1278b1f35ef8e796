"""Inside one Spark task: references -> results, a row out for each row in; knows no run and no output."""
