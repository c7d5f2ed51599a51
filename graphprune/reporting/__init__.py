"""What a run tells: results, report, page, model card."""
