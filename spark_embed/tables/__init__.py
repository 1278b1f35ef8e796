"""Tables before and after a run: are they as they should be, are they as before; knows no Spark, no model."""
