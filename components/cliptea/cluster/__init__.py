"""Training as a TrainJob of Kubeflow Trainer: built, followed and cleaned up by the pipeline's train step."""
