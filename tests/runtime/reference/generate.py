"""Reference outputs of transformers on the dequantized model, for the reference environment: generate.py MODEL.gguf [KIND…] > smollm2.json

Greedy continuations of every KIND: in float32, with matrices rounded to bfloat16 but float32 arithmetic (`rounded`), and all in
bfloat16; token ids of texts; the natural log-probabilities of a prompt in float32. Set OMP_NUM_THREADS=1 on a busy machine.
"""

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

HERE = Path(__file__).parent
NEW_TOKENS = 32


KINDS = ("float32", "rounded", "bfloat16")


def main(path: Path, kinds: Sequence[str]) -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    inputs = json.loads((HERE / "inputs.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    texts = [f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n" for prompt in inputs["prompts"]]
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    result: dict[str, object] = {
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        "new_tokens": NEW_TOKENS,
        "tokenized": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in inputs["texts"]],
        "prompts": prompts,
    }
    for name in kinds:
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()
        for parameter in model.parameters():
            if name == "rounded" and parameter.dim() == 2:
                parameter.data = parameter.data.bfloat16().float()
        result[name] = [greedy(model, prompt) for prompt in prompts]
        if name == "float32":
            ids = result["tokenized"][0]
            with torch.inference_mode():
                logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1)
            result["prompt_logprobs"] = [round(float(logprobs[i, token]), 5) for i, token in enumerate(ids[1:])]
    json.dump(result, sys.stdout)


def greedy(model: torch.nn.Module, prompt: list[int]) -> dict[str, list[float]]:
    """Tokens, and by how much the best logit leads the second at each."""
    ids, cache = torch.tensor([prompt]), transformers.DynamicCache(config=model.config)
    tokens, leads = [], []
    with torch.inference_mode():
        for _ in range(NEW_TOKENS):
            top = model(ids, past_key_values=cache, use_cache=True).logits[0, -1].float().topk(2)
            tokens.append(int(top.indices[0]))
            leads.append(round(float(top.values[0] - top.values[1]), 4))
            ids = top.indices[:1].view(1, 1)
    return {"tokens": tokens, "leads": leads}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or KINDS)
