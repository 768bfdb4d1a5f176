"""Any encoder x any task x protocol -> rows of results with their intervals; knows nothing of pretraining."""
