"""Writes a GGUF model as a folder of bfloat16 safetensors, for peers that read no GGUF: PYTHON unquantized.py MODEL.gguf FOLDER.

Executed by an interpreter that has transformers, not imported.
"""

import importlib
import sys
from pathlib import Path

model, folder = Path(sys.argv[1]), sys.argv[2]
transformers = importlib.import_module("transformers")
transformers.AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name).save_pretrained(folder)
unpacked = transformers.GgufConfig(dequantize=True)
loaded = transformers.AutoModelForCausalLM.from_pretrained(
    model.parent, gguf_file=model.name, dtype="bfloat16", quantization_config=unpacked
)
loaded.save_pretrained(folder)
