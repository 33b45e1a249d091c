"""Other people's models behind the interface of `evaluation.models`; `catalog.BASELINES` lists them."""
