"""Questions about a slide or a patient: their classes, whom they are asked of, and how answers agree."""

from wsi_pipeline.predictions.tasks.agreement import consistent
from wsi_pipeline.predictions.tasks.task import STATES, Task, TaskClass, load_task, task_names

__all__ = ["STATES", "Task", "TaskClass", "consistent", "load_task", "task_names"]
