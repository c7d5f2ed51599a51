"""What vLLM makes of a folder, as a line of JSON: greedy tokens after some, and how likely it found each of these.

    PYTHON_WITH_VLLM benchmarks/vllm_tokens.py OUT/decilm "[5, 9, 11]" 32

Needs no graphprune. VLLM_CPU_KVCACHE_SPACE=1 and VLLM_CPU_OMP_THREADS_BIND=nobind are for small machines.
"""

import json
import sys


def main() -> None:
    from vllm import LLM, SamplingParams

    folder, ids, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    limits = {"max_model_len": 256, "max_num_seqs": 1, "dtype": "float32", "enforce_eager": True}
    model = LLM(folder, trust_remote_code=True, skip_tokenizer_init=True, **limits)
    asked = SamplingParams(temperature=0, max_tokens=count, prompt_logprobs=0, ignore_eos=True, detokenize=False)
    found = model.generate([{"prompt_token_ids": ids}], asked)[0]
    likely = [each[token].logprob for token, each in zip(ids[1:], found.prompt_logprobs[1:], strict=True)]
    print(json.dumps({"tokens": list(found.outputs[0].token_ids), "likely": likely}))


if __name__ == "__main__":
    main()
