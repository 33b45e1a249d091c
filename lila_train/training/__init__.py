"""From pairs of a cue store to a decoder: settings, views, the objective, the loop, and the studies made of many runs.

`settings` and `recipes` say what a run is; `pairs`, `sampling`, `regions` and `views` bring it its data, `cues` and
`targets` what the features should tell; `solve`, `objective` and `method` are the paper's sections 3.2 and 3.3;
`learner` and `trainer` carry it out; `ablations` and `ablation_study` compare runs.
"""
