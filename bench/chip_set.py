"""Radar chips of a study as a set that `eo-ssl ingest` reads as any other: a tar file of PNG images, its manifest and its card."""

from __future__ import annotations

import csv
import io
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

Images = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ChipSet:
    """Amplitudes of square chips with their kinds and splits."""

    title: str
    images: Images
    "amplitude [n, side, side]"
    kinds: npt.NDArray[np.str_]
    split: npt.NDArray[np.str_]
    full_scale: float
    "amplitude of the largest grey level"
    facts: Mapping[str, str]
    "licence, attribution, source and citation"

    def write(self, folder: Path, *, pitfall: str) -> Path:
        """Write the set, all of it or nothing, and return its card, which is named as the folder."""
        made = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        grey = np.clip(np.rint(self.images / self.full_scale * 255), 0, 255).astype(np.uint8)
        with tarfile.open(made / "chips.tar", "w") as archive, (made / "chips.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", "kind", "split"])
            for number, image in enumerate(grey):
                data = io.BytesIO()
                Image.fromarray(image).save(data, "PNG")
                entry = tarfile.TarInfo(f"chip_{number:06d}.png")
                entry.size = data.tell()
                data.seek(0)
                archive.addfile(entry, data)
                table.writerow([entry.name, self.kinds[number], self.split[number]])
        (made / f"{folder.name}.yaml").write_text(yaml.safe_dump(self._describe(pitfall), sort_keys=False))
        made.rename(folder)
        return folder / f"{folder.name}.yaml"

    def _describe(self, pitfall: str) -> dict[str, object]:
        """The card."""
        columns = {"path_column": "path", "label_column": "kind", "split_column": "split"}
        chips = {"archive": "chips.tar", "manifest": "chips.csv", **columns}
        return {
            "title": self.title,
            "sensor": "sar_chip",
            "reader": "chips",
            "bands": ["SAR"],
            "quantity": "amplitude",
            "gsd_m": 1.0,
            "scale": self.full_scale / 255,
            "chips": {**chips, "crop_px": self.images.shape[-1], "undersized": "drop"},
            "splits": {name: f"{int((self.split == name).sum())} chips" for name in np.unique(self.split).tolist()},
            **self.facts,
            "pitfalls": [pitfall],
        }
