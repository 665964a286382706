"""Tracking with MLflow. Runs are found by tag before they are created, so that a killed run can resume."""
