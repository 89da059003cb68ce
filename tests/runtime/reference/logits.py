"""Logits of transformers in float32 for the reference environment: logits.py TOKENS.json FOLDER…, each written to FOLDER/logits.npy."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers


def main(tokens: list[int], folders: list[Path]) -> None:
    warnings.simplefilter("ignore")
    for folder in folders:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.inference_mode():
            np.save(folder / "logits.npy", model(torch.tensor([tokens])).logits[0].numpy())


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), [Path(name) for name in sys.argv[2:]])
