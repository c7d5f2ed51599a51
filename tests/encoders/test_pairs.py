"""Pairs of images and texts: how they are read, batched, and what is said of those that cannot be."""

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from graphprune.data.tokens import load_tokenizer
from graphprune.encoders.images import load_processor, open_image
from graphprune.encoders.pairs import (
    PLACE,
    TOGETHER,
    Reader,
    base_of,
    list_pairs,
    make_pair_batches,
    read_pairs,
    require_inputs,
)
from graphprune.errors import DataError
from tests.support.tiny_pairs import SIZE, write_clip, write_pairs

INPUTS = ("input_ids", "pixel_values", "attention_mask")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


def reader(folder: Path, base: Path, longest: int = 16) -> Reader:
    return Reader(load_tokenizer(folder), load_processor(folder), longest, base)


def test_a_folder_of_images_and_its_records_are_the_same_pairs(folder: Path) -> None:
    pairs = folder / "pairs"
    whole, records = read_pairs(str(pairs)), read_pairs(str(pairs / "metadata.jsonl"))
    assert [pair.text for pair in whole] == [pair.text for pair in records]
    assert base_of(str(pairs)) == base_of(f"{pairs / 'metadata.jsonl'}#train") == pairs
    train, held = (list_pairs(f"{pairs}#{part}") for part in ("train", "held-out"))
    assert (len(train), len(held), len(whole)) == (22, 2, 24)
    assert not {pair.where for pair in train} & {pair.where for pair in held}


def test_batches_hold_two_pairs_or_more_each_in_its_place(folder: Path, tmp_path: Path) -> None:
    pairs = read_pairs(str(write_pairs(tmp_path / "many", TOGETHER + 1)))
    batches = make_pair_batches(pairs, reader(folder, tmp_path / "many"), INPUTS)
    assert [len(batch[PLACE]) for batch in batches] == [17, 16]
    assert torch.cat([batch[PLACE] for batch in batches]).tolist() == list(range(TOGETHER + 1))
    tokenizer, processor = load_tokenizer(folder), load_processor(folder)
    for batch in batches:
        assert batch.keys() == {*INPUTS, PLACE}
        for row, place in enumerate(batch[PLACE].tolist()):
            ids, mask = batch["input_ids"][row], batch["attention_mask"][row].bool()
            assert ids[mask].tolist() == tokenizer(pairs[place].text)["input_ids"]
            assert not bool(ids[~mask].any())
            image = open_image(pairs[place].image, tmp_path / "many", "here")
            assert image.size == (SIZE + place % 3, SIZE)
            assert torch.equal(
                batch["pixel_values"][row], processor(images=image, return_tensors="pt")["pixel_values"][0]
            )


def test_an_image_may_be_bytes_in_a_record(tmp_path: Path) -> None:
    held = io.BytesIO()
    Image.new("L", (3, 2), 9).save(held, "PNG")
    image = open_image({"bytes": held.getvalue(), "path": None}, tmp_path, "row 1")
    assert (image.size, image.mode, image.getpixel((0, 0))) == ((3, 2), "RGB", (9, 9, 9))


def test_what_is_wrong_with_a_pair_is_told_by_its_line(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"

    def make(*rows: dict[str, object], longest: int = 16) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        make_pair_batches(read_pairs(str(path)), reader(folder, tmp_path, longest), INPUTS)

    good = {"image": str(folder / "pairs" / "0.png"), "text": "a cat."}
    make(good, good)
    with pytest.raises(DataError, match=r"line 2 of .*pairs.jsonl names the image gone.png, and .* is not there"):
        make(good, {**good, "image": "gone.png"})
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"the image in line 1 of .* cannot be read: cannot identify"):
        make({**good, "image": "broken.png"}, good)
    with pytest.raises(DataError, match="has 9 tokens, and the model has positions for 8; shorten it"):
        make(good, {**good, "text": "cat cat cat cat cat cat cat"}, longest=8)
    with pytest.raises(DataError, match="has 1 pair, and pairs are told from each other; give 2 or more"):
        make(good)
    with pytest.raises(DataError, match="has no image: name its file in 'image'; it has text"):
        make(good, {"text": "a cat."})
    with pytest.raises(DataError, match="has no text in 'text': name its field with --field; it has image, caption"):
        make(good, {"image": good["image"], "caption": "a cat."})
    with pytest.raises(DataError, match="is int, neither the name of a file nor bytes"):
        make(good, {**good, "image": 7})


def test_what_pairs_do_not_give_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tiny takes 'bbox'"):
        require_inputs(("input_ids", "bbox"), "tiny")
    with pytest.raises(DataError, match="is text alone"):
        read_pairs(str(write_text(tmp_path)))
    with pytest.raises(DataError, match=r"has no image processor; copy preprocessor_config.json into it"):
        load_processor(tmp_path)


def write_text(folder: Path) -> Path:
    (folder / "plain.txt").write_text("words")
    return folder / "plain.txt"
