"""The pipeline of stage one: frames of a clip become its cues, clips of a task become shard files."""
