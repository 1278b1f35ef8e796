"""A loaded model outside of Spark, as its options name it or as a run had it; knows no HTTP and no index."""
