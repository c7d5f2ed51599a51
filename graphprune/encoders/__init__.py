"""What models of embeddings are given and judged by: passages and pairs, embeddings, losses and ranks."""
