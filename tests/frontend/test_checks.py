"""Checks of a source's files: whole ones pass, and every way to damage one is named."""

import hashlib
import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from graphprune.errors import SourceError
from graphprune.frontend.checks import (
    BITS,
    INDEX,
    check_entry,
    check_finite,
    check_folder,
    check_keys,
    check_no_extras,
    check_weights,
    describe_unread,
    explain_no_weights,
    hash_files,
    read_header,
    shorten,
)
from graphprune.frontend.config_checks import check_config
from graphprune.json_data import JsonObject

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool]
TENSORS = {str(kind): torch.zeros(3, 2, dtype=kind) for kind in TYPES} | {"none": torch.zeros(0), "one": torch.ones(())}


def written(folder: Path, name: str = "model.safetensors") -> Path:
    path = folder / name
    save_file(TENSORS, path, metadata={"format": "pt"})
    return path


def test_the_header_of_a_whole_file_is_read_without_its_metadata(tmp_path: Path) -> None:
    header = read_header(written(tmp_path))
    assert {name: entry.shape for name, entry in header.items()} == {
        name: tuple(tensor.shape) for name, tensor in TENSORS.items()
    }
    for name, entry in header.items():
        assert entry.bytes == TENSORS[name].numel() * TENSORS[name].element_size()
        assert BITS[entry.dtype] == 8 * TENSORS[name].element_size()


def test_a_file_cut_off_anywhere_or_longer_than_it_says_is_refused(tmp_path: Path) -> None:
    whole, path = save({"a": torch.arange(3.0), "b": torch.ones(2)}), tmp_path / "model.safetensors"
    begin = 8 + int.from_bytes(whole[:8], "little")  # of the data; what is cut off before it has no header to read
    for length in (*range(len(whole)), len(whole) + 1):
        path.write_bytes((whole + b"\0")[:length])
        said = f"holds {length} of {len(whole)}" if length >= begin else rf"not safetensors \({length} bytes\)"
        with pytest.raises(SourceError, match=f"is truncated.* {said}.*download it again"):
            read_header(path)
    path.write_bytes(whole)
    assert set(read_header(path)) == {"a", "b"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "t has 4 bytes where its shape needs 8"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "t has -8 bytes where its shape needs 8"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}, "t has 8 bytes where its shape needs 8"),
        ({"dtype": "BF16", "shape": [3, 3], "data_offsets": [0, 36]}, "t has 36 bytes where its shape needs 18"),
        ({"dtype": "F4", "shape": [4], "data_offsets": [0, 4]}, "t has 4 bytes where its shape needs 2"),
    ],
)
def test_bytes_that_do_not_fit_the_shape_are_corrupt(entry: JsonObject, message: str) -> None:
    with pytest.raises(SourceError, match=f"model.safetensors is corrupt: {message}"):
        check_entry(Path("model.safetensors"), "t", entry)


def test_a_type_that_is_not_known_is_taken_as_it_is() -> None:
    assert check_entry(Path("x"), "t", {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [5, 8]}).end == 8


def test_headers_that_are_no_mapping_of_entries_are_not_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    deep = '{"t": ' * 5000
    for header in (
        deep,
        '{"t": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 6]}}',
        "[1, 2]",
        '{"t": {"dtype": "F32"}}',
        '{"t": 3}',
        "{",
        '{"t": {"shape": 3, "data_offsets": [0]}}',
    ):
        path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
        with pytest.raises(SourceError, match="has a header that is not safetensors"):
            read_header(path)


def test_folders_and_configurations_are_told_apart(tmp_path: Path) -> None:
    check_folder(tmp_path)
    with pytest.raises(SourceError, match="no model folder at"):
        check_folder(tmp_path / "none")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "layers": 2}')
    with pytest.raises(SourceError, match=r"config\.json is a file; pass the folder"):
        check_folder(tmp_path / "config.json")
    assert check_config(tmp_path) == {"model_type": "llama", "layers": 2}
    (tmp_path / "config.json").write_text('{"model_type": null}')
    with pytest.raises(SourceError, match="names no model_type"):
        check_config(tmp_path)


def test_one_file_or_all_shards_of_an_index_are_the_weights(tmp_path: Path) -> None:
    assert check_weights(written(tmp_path).parent).files == (tmp_path / "model.safetensors",)
    shards = [written(tmp_path, f"model-0000{k}-of-00002.safetensors") for k in (1, 2)]
    table = {"one": shards[1].name, "none": shards[0].name}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": table}))
    assert check_weights(tmp_path).files == tuple(shards)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "has no weight_map; download it again"),
        (None, "has no weight_map"),
        ({"one": "a.safetensors", "x": "b.safetensors"}, "1 of 2 shards are missing in .*: b.safetensors"),
        ({"one": "../model.safetensors"}, "1 of 1 shards are missing in .*: ../model.safetensors"),
        ({f"t{k}": "a.safetensors" for k in range(5)}, "names tensors .*: t0, t1, t2 and 2 more; download it again"),
    ],
    ids=["empty", "none", "missing", "elsewhere", "absent"],
)
def test_an_index_that_says_what_is_not_there_is_refused(tmp_path: Path, table: object, message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    written(tmp_path)
    written(folder, "a.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": table}))
    with pytest.raises(SourceError, match=message):
        check_weights(folder)


def test_weights_of_another_name_or_form_are_explained(tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").touch()
    assert explain_no_weights(tmp_path).startswith(f"no weights in {tmp_path}; expected model.safetensors, or {INDEX}")
    (tmp_path / "consolidated.pth").touch()
    assert explain_no_weights(tmp_path).startswith(f"{tmp_path / 'consolidated.pth'} is a pickle, which can run any")
    with pytest.raises(SourceError, match=r"consolidated\.pth is a pickle"):
        check_weights(tmp_path)
    written(tmp_path, "lora.safetensors")
    with pytest.raises(SourceError, match=r"has lora\.safetensors but neither model\.safetensors nor"):
        check_weights(tmp_path)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"missing_keys": ["b", "a"]}, "the checkpoint m lacks tensors that Net needs: a, b"),
        (
            {"mismatched_keys": [("w", (3,), (4,))]},
            "the checkpoint m holds tensors that do not fit Net: w is [3], needed [4]",
        ),
        ({"error_msgs": ["broken"]}, "the checkpoint m cannot be loaded as Net: broken"),
        ({"missing_keys": ["a"], "unexpected_keys": ["z"]}, "the checkpoint m lacks tensors that Net needs: a"),
    ],
)
def test_a_checkpoint_holds_the_tensors_of_its_model(info: dict[str, object], message: str) -> None:
    whole = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
    check_keys("m", "Net", whole)
    with pytest.raises(SourceError) as caught:
        check_keys("m", "Net", whole | info)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_tensors_of_other_heads_are_named_and_no_error() -> None:
    found = check_keys("m", "Net", {"missing_keys": [], "unexpected_keys": {"z", "y"}, "mismatched_keys": []})
    assert found == ("y", "z")
    assert describe_unread("Net", found) == "2 tensors of the checkpoint that Net does not read: y, z"
    many = describe_unread("Net", [f"head.{index}" for index in range(30)])
    assert many.endswith(" and 10 more")
    assert "head.19" in many


def test_weights_that_are_no_numbers_are_counted_and_named() -> None:
    nan, inf = float("nan"), float("inf")
    good = [("ids", torch.arange(3)), ("skeleton", torch.empty(3, device="meta")), ("half", torch.ones(2).half())]
    check_finite("m", good)
    bad = [*good, ("w", torch.tensor([1.0, nan, -inf])), ("v", torch.tensor([nan]))]
    with pytest.raises(SourceError, match=r"^the weight w of m holds 2 NaN or infinite values$"):
        check_finite("m", bad)


def test_files_of_the_model_are_hashed_and_others_are_not(tmp_path: Path) -> None:
    names = ["config.json", "model.safetensors", "LICENSE", "tokenizer.model", "notes.bin", "README.md"]
    for name in names:
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.json").mkdir()
    hashed = {name: hashlib.sha256(name.encode()).hexdigest() for name in sorted(names) if name != "notes.bin"}
    assert hash_files(tmp_path, weights=True) == hashed
    assert hash_files(tmp_path, weights=False) == {n: h for n, h in hashed.items() if n != "model.safetensors"}


@pytest.mark.parametrize(
    ("items", "text"), [(["a"], "a"), (["a", "b", "c"], "a, b, c"), (["a", "b", "c", "d", "e"], "a, b, c and 2 more")]
)
def test_long_lists_are_cut_after_three(items: list[str], text: str) -> None:
    assert shorten(items) == text


EXTRAS: dict[str, dict[str, object]] = {
    "attention": {"attn_implementation": "acme/evil"},
    "attention of a version": {"_attn_implementation": "acme/evil@main:layer"},
    "within": {"text_config": {"attn_implementation": "acme/evil"}},
    "of each part": {"attn_implementation": {"": "sdpa", "vision_config": "acme/evil"}},
    "experts": {"experts_implementation": "paged|acme/evil"},
    "kernels": {"kernel_config": {"RMSNorm": "acme/evil:Norm"}},
}


@pytest.mark.parametrize("name", EXTRAS)
def test_code_of_the_hub_is_not_fetched_because_a_configuration_names_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="names code of the hub"):
        check_no_extras(tmp_path, EXTRAS[name])


def test_an_adapter_beside_a_model_is_refused(tmp_path: Path) -> None:
    """It may be a pickle, and would change what is computed without a word."""
    check_no_extras(tmp_path, {"attn_implementation": "sdpa", "model_type": "a/b", "experts_implementation": None})
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(SourceError, match="has an adapter beside the model"):
        check_no_extras(tmp_path, {})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("size", [1, 3, 8, 31, 1000])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(size: int, value: float, dtype: torch.dtype) -> None:
    for place in {0, size // 2, size - 1}:
        tensor = torch.randn(size).to(dtype)
        check_finite("m", [("w", tensor)])
        tensor[place] = value
        with pytest.raises(SourceError, match="holds 1 NaN or infinite"):
            check_finite("m", [("w", tensor)])
