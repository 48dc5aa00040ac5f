"""Files of records in whichever form they come: JSON lines, JSON lists, parquet, or samples; and where the pictures
are that such records name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_pipelines.sources.glimpse import JSON_LINES, Glimpse
from data_pipelines.sources.lines import JsonLines, count_lines
from data_pipelines.sources.parquet import open_parquet
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.rows import Rows
from data_pipelines.sources.samples import open_samples
from data_pipelines.sources.source import Options
from data_pipelines.sources.whole_files import json_list, open_whole

__all__ = ["open_records", "pictures_of"]


def open_records(first: Glimpse) -> Rows:
    """The records of a source, in the order in which `Glimpse.record` looked for the first.

    Raises: ValueError, OSError.
    """
    if lines := first.having(*JSON_LINES):
        return JsonLines(count_lines(lines))
    if first.parts or first.having("tar"):
        return open_samples(first)
    if tables := first.having("parquet"):
        return open_parquet(tables)
    return open_whole(first.having("json"), json_list)


def pictures_of(first: Glimpse, options: Options) -> Pictures:
    """Where the pictures are: where the user says, else beside the records: `images.tar`, `images/`, their folder.

    Raises: FileNotFoundError.
    """
    if options.images is not None:
        if not options.images.exists():
            raise FileNotFoundError(2, "no such folder or tar of pictures", str(options.images))
        return Pictures((options.images,))
    folders = [path if path.is_dir() else path.parent for path in first.paths]
    return Pictures(tuple(dict.fromkeys(place for folder in folders for place in _beside(folder))))


def _beside(folder: Path) -> Iterator[Path]:
    if (tar := folder / "images.tar").is_file():
        yield tar
    if (inner := folder / "images").is_dir():
        yield inner
    yield folder
