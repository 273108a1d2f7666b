"""From files to batches: annotations, index, splits, transcoding, loaders."""
