"""Prepared cases to weights: the stages of a model on Ray Train and DeepSpeed.

From the top: `loop` runs a stage from its start or last checkpoint to its weights; `watch` shows
it; `weights` writes folders of weights; `stages` says what each stage needs, learns and leaves;
`losses` is what they minimise; `examples` is what they see; `optimisation` is what any optimiser
step needs; `config` holds the settings, flat
as users write them, and `settings` their parts. Each room imports from those after it only.
"""
