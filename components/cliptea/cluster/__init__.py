"""Training with a TrainJob of Kubeflow Trainer, which the pipeline's train step creates, follows and cleans up."""
