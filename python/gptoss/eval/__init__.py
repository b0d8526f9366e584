"""gptoss as a model of EleutherAI's lm-evaluation-harness: the extra `eval`.

`python -m gptoss.eval` is the harness's command line with the model `gptoss`.
"""
