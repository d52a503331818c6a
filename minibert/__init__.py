"""A minimal BERT in plain PyTorch. Start reading at `config.py`, then `model.py`."""

__version__ = "0.1.0"
