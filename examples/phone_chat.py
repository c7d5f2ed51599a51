"""A chat model for a phone: fewer parameters, int4 for onnxruntime, and a folder that a web page opens."""

import argparse
from pathlib import Path

import transformers

import graphprune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--target", default="100M", help="parameters, or a share of them")
    parser.add_argument("--data", default="stdlib", help="text like what it will be asked")
    parser.add_argument("--method", default="adapt-pruner-ls")
    parser.add_argument("--prompt", default="What is the capital of France?")
    parser.add_argument("--out", type=Path, default=Path("phone-chat"))
    asked = parser.parse_args()

    backends = ("huggingface", "ort{precision=int4}", "web{variants=[q4],dtype=q4}")
    options = graphprune.CompileOptions(
        asked.model, asked.target, asked.out, method=asked.method, data=asked.data, backends=backends
    )
    result = graphprune.compile(options)
    print(*(f"{each.name}: {each.before} -> {each.after}" for each in result.measures), sep="\n")

    tokenizer = transformers.AutoTokenizer.from_pretrained(asked.out, trust_remote_code=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(asked.out, trust_remote_code=False)  # graphprune knows it
    text = asked.prompt
    if tokenizer.chat_template:
        said = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    made = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=40, do_sample=False)
    print(tokenizer.decode(made[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()
