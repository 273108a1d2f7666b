"""From files to batches: annotations, index, patients, splits, sampling, augmentation, transcoding and loaders."""
