"""The commands of the shell and what each does, in the order of the flow."""

COMMANDS = {
    "ingest": "read an archive, calibrate it to physical units, tile it and add it to a corpus",
    "pair": "pair the tiles of two streams on the same ground (radar and optical, seasons)"
    " and measure how well they fit",
    "curate": "choose a balanced, diverse subset of a corpus and say what was left out and why",
    "pretrain": "train an encoder on a corpus by a self-supervised method, pruning while it trains if asked to",
    "evaluate": "judge encoders on a task with kNN, probes and fine-tuning, with intervals and paired comparisons",
    "export": "write an encoder as a bundle that timm, TorchGeo and onnxruntime open,"
    " check one, or push one to the hub",
    "embed": "write the embeddings of a corpus as GeoParquet, or of scenes as Cloud-Optimized GeoTIFF",
    "search": "find the tiles most like a tile, a place or an image, and draw a page of them",
    "report": "turn products into one self-contained HTML page",
    "run": "run a list of the commands above from one configuration and report on all of it",
    "inspect": "say what a product, a card or a configuration holds",
    "doctor": "say what this machine has or, given data, what is wrong with their numbers:"
    " offsets, units, band order, nodata",
}
