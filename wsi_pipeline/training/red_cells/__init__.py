"""The red-cell classifier: labelled fields to a support vector machine and its card."""
