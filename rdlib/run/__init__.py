"""One run on disk: parameters, plan, record, checkpoint, feature cache, progress."""
