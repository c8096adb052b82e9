"""Cross-validation: errors of models on data that they did not train on."""
