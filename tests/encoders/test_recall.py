"""Recall by hand, and the contrastive loss against what its figure says."""

import pytest
import torch

from graphprune.encoders.embeddings import Embedding
from graphprune.encoders.losses import Contrastive
from graphprune.encoders.recall import Recall, recall_at
from graphprune.errors import DataError, UsageError
from graphprune.running.loss import Comparing


def test_recall_of_four_pairs_by_hand() -> None:
    # Rows (images): own is 1st, 2nd, 3rd, 1st. Columns (texts): own is 1st, 3rd, 2nd, 1st.
    similarities = torch.tensor([[9.0, 1, 2, 3], [6, 5, 1, 2], [7, 8, 6, 2], [1, 6, 7, 9.5]])
    assert recall_at(1, similarities) == (2 / 4 + 2 / 4) / 2
    assert recall_at(2, similarities) == (3 / 4 + 3 / 4) / 2
    assert recall_at(3, similarities) == 1.0


def test_recall_of_twenty_pairs_is_what_sorting_gives() -> None:
    similarities = torch.randn(20, 20, generator=torch.Generator().manual_seed(0)) + 1.5 * torch.eye(20)
    for k in (1, 5, 10):
        found = 0
        for table in (similarities.tolist(), similarities.T.tolist()):
            for own, row in enumerate(table):
                found += own in sorted(range(20), key=lambda place, row=row: -row[place])[:k]  # type: ignore[misc]
        assert recall_at(k, similarities) == pytest.approx(found / 40)


def test_a_model_to_which_all_is_alike_finds_nothing() -> None:
    assert recall_at(1, torch.ones(5, 5)) == 0.0
    assert recall_at(5, torch.ones(5, 5)) == 1.0


def test_as_a_metric_it_is_read_off_the_embeddings_and_needs_two() -> None:
    images = torch.tensor([[1.0, 0], [0, 2]])
    both = (Embedding("image_embeds", 1), Embedding("text_embeds", 0))
    assert float(Recall(both)((images.flip(0), images), {})) == 0.0
    assert float(Recall(both)((images * 3, images), {})) == -1.0
    with pytest.raises(UsageError, match="which this model does not compare"):
        Recall(both[:1])


def test_the_contrastive_loss_is_the_mean_of_both_directions() -> None:
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = -sum(float(logits[i, i] - logits[i].logsumexp(0)) for i in range(6)) / 6
    columns = -sum(float(logits[i, i] - logits[:, i].logsumexp(0)) for i in range(6)) / 6
    batch = {"pixel_values": torch.zeros(6, 1)}
    loss = Comparing(Contrastive(1))
    assert float(loss((torch.zeros(1), logits), batch)) == pytest.approx((rows + columns) / 2)
    with pytest.raises(DataError, match="needs 2 or more in a batch"):
        loss((torch.zeros(1), logits[:1, :1]), {"pixel_values": torch.zeros(1, 1)})
