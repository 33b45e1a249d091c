"""Stage one at work: a clip's frames become its cues, a task's clips become shards."""
