"""The suites of the sweep: which classes each has, and modules that are not of transformers."""

import sys
from pathlib import Path
from typing import Any

# Mappings of transformers by suite, in the order in which a class is first met.
MAPPINGS = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "image": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "dual": "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
}
TITLES = {
    "causal": "Causal language models",
    "masked": "Masked language models",
    "seq2seq": "Sequence to sequence",
    "image": "Image classification",
    "dual": "Text and images",
    "plain": "Plain modules: torchvision and timm",
}
# One model of each family of torchvision, the smallest.
TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x0_5
squeezenet1_1 swin_t swin_v2_t vgg11 vgg11_bn vit_b_32 wide_resnet50_2
"""
# Sizes of images, in pixels, that these two take instead of 64.
LARGER = {"inception_v3": 96, "maxvit_t": 224, "alexnet": 96}
MOST = 100_000_000  # parameters of a model of timm


def entries(suite: str) -> dict[str, str]:
    """Names and classes of a suite; a class that an earlier suite has is left out, a second of a type named by both."""
    if suite == "plain":
        return plain_entries()
    seen: set[str] = set()
    for name in MAPPINGS:
        found = new_classes(name, seen)
        if name == suite:
            return found
        seen.update(found.values())
    raise ValueError(f"no suite {suite}; there are {', '.join(TITLES)}")


def new_classes(suite: str, seen: set[str]) -> dict[str, str]:
    from transformers.models.auto import modeling_auto

    found: dict[str, str] = {}
    for model_type, classes in getattr(modeling_auto, MAPPINGS[suite]).items():
        for class_name in classes if isinstance(classes, (tuple, list)) else (classes,):
            if class_name not in seen and class_name not in found.values():
                found[model_type if model_type not in found else f"{model_type}/{class_name}"] = class_name
    return found


def plain_entries() -> dict[str, str]:
    """One model of each family; empty where the packages are not installed."""
    found = {f"torchvision/{name}": name for name in TORCHVISION.split()} if has_torchvision() else {}
    return found | {f"timm/{name}": name for name in smallest_of_timm()}


def has_torchvision() -> bool:
    declare_operators()
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return False
    return True


def declare_operators() -> None:
    """The wheel of torchvision on PyPI is built for CUDA. Its import asks for operators that classifiers never call."""
    import torch

    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        KEPT.append(library)
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


KEPT: list[Any] = []


def smallest_of_timm() -> list[str]:
    """Of each of timm's files of models one that its name calls small; models that are made for tests first."""
    has_torchvision()
    try:
        import timm
    except ImportError:
        return []
    return [min(names, key=rank) for names in (timm.list_models(module=m) for m in timm.list_modules()) if names]


def rank(name: str) -> tuple[int, int, str]:
    words = ("test_", "atto", "femto", "pico", "nano", "_xxs", "_xs", "_xt", "tiny", "_0", "_s0", "_t0", "_s", "small")
    place = next((number for number, word in enumerate(words) if word in name), len(words))
    return place, len(name), name


def plain_model(name: str) -> tuple[Any, int]:
    """The module with random weights and the size of its images."""
    import torch

    torch.manual_seed(0)
    library, _, model = name.partition("/")
    size = LARGER.get(model, 64)
    if not has_torchvision():
        raise ImportError("torchvision cannot be imported: pip install --no-deps torchvision timm")
    if library == "torchvision":
        import torchvision

        options = {"image_size": size} if model.startswith("vit") else {}
        options |= {"input_size": (size, size)} if model.startswith("maxvit") else {}
        options |= {"init_weights": True} if model in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(model, weights=None, num_classes=10, **options).eval(), size
    import timm

    with torch.device("meta"):
        size = sum(p.numel() for p in timm.create_model(model, num_classes=10).parameters())
    if size > MOST:
        raise ValueError(f"{size:,} parameters are more than this sweep takes")
    made = timm.create_model(model, num_classes=10).eval()
    return made, made.default_cfg.get("input_size", (3, size, size))[-1]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    print(*plain_entries(), sep="\n")
