"""MLflow: the only package that imports it. Runs are found by tag before they are made, so that a killed run goes on."""
