"""MLflow, which nothing else imports. Runs are found by tag before they are made, so that a killed run goes on."""
