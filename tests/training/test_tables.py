"""The same table must give the same frame and the same tensors, however it is spelled and whoever reads it."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch

from mlkit.training.data import channel, read_channel, read_table
from mlkit.training.data.delimited import read_delimited
from mlkit.training.data.frame import MISSING, Texts

COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
WORDS = ["Rome", "São Paulo", "a,b", "a;b", 'say "hi"', "x|y", "two\nlines", "true", "O'Neil", "1 000", "12a", "é"]


def contents(frame):
    """Return the names, and the type and the bits of each column."""
    columns = {}
    for name, column in frame.columns.items():
        is_text = isinstance(column, Texts)
        columns[name] = (
            ("text", list(column)) if is_text else (str(column.dtype), column.astype(column.dtype).tobytes())
        )
    return frame.names, len(frame), columns


def random_columns(seed, rows=7):
    """Return columns of Python values, None where missing, of each kind."""
    rng = random.Random(seed)

    def column(values):
        return [None if rng.random() < 0.2 else value for value in values] if rng.random() < 0.7 else list(values)

    return {
        "whole": column(rng.randint(-(10**6), 10**6) for _ in range(rows)),
        "fraction": column(rng.choice([rng.gauss(0, 1), rng.gauss(0, 1e-30), 0.1, -0.0]) for _ in range(rows)),
        "text": [rng.choice(WORDS) for _ in range(rows - 1)] + ["Rome"],
        "mostly missing": [None] * (rows - 1) + [rng.choice([1.5, "word"])],
        "flag": [rng.choice([True, False]) for _ in range(rows)],
        "large": [2**53 + rng.randint(1, 99) for _ in range(rows)],
        "all missing": [None] * rows,
    }


def cell_text(value, rng, has_comma):
    if value is None:
        return rng.choice(sorted(MISSING))
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    return text.replace(".", ",") if has_comma and isinstance(value, float) else text


def delimited_text(columns, seed, delimiter=",", end="\n", quoting=csv.QUOTE_MINIMAL, has_comma=False):
    rng = random.Random(seed)
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(columns)
    writer.writerows([cell_text(value, rng, has_comma) for value in row] for row in zip(*columns.values()))
    return out.getvalue()


@pytest.mark.parametrize("seed", range(4))
def test_every_spelling_of_a_table_is_the_same_frame(tmp_path, seed):
    columns = random_columns(seed)
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    expected = contents(read_table(tmp_path / "a.parquet"))
    count = 0
    quotings = (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    encodings = ("utf-8", "utf-8-sig", "utf-16")
    for delimiter, end, quoting, encoding in product(",;\t|", ("\n", "\r\n"), quotings, encodings):
        has_comma = delimiter != "," and count % 2 == 1
        suffix = list(COMPRESSIONS)[count % 4]
        name = f"a{('.csv', '.txt', '.data', '.tsv' if delimiter == chr(9) else '')[count % 3]}{suffix}"
        text = delimited_text(columns, count, delimiter, end, quoting, has_comma)
        path = tmp_path / name
        path.write_bytes(COMPRESSIONS[suffix](text.encode(encoding)))
        for use_arrow in (True, False):
            frame = read_delimited(path, use_arrow=use_arrow)
            assert contents(frame) == expected, (name, delimiter, end, quoting, encoding, has_comma, use_arrow)
        count += 1
    assert count == 48


@pytest.mark.parametrize("seed", range(4))
def test_every_format_of_a_table_is_the_same_frame(tmp_path, seed):
    columns = random_columns(seed)
    table = pa.table(columns)
    records = [dict(zip(columns, row)) for row in zip(*columns.values())]
    sparse = [{name: value for name, value in record.items() if value is not None} for record in records]
    sparse[0] = records[0]  # the order of the columns
    lines = "\n".join(map(json.dumps, records))
    texts = {name: [None if v is None else cell_text(v, random, False) for v in c] for name, c in columns.items()}
    strings = pa.table({name: pa.array(column, pa.string()) for name, column in texts.items()})
    encoded = pa.table(
        {name: column.dictionary_encode() for name, column in zip(strings.column_names, strings.columns)}
    )
    files = {
        "a.csv": delimited_text(columns, seed),
        "part-00000": delimited_text(columns, seed, ";"),
        "a.jsonl": lines,
        "sparse.ndjson.gz": gzip.compress("\n".join(map(json.dumps, sparse)).encode()),
        "a.json": json.dumps(records, indent=1),
        "part-00001": lines,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table, tmp_path / "groups.pq", row_group_size=2, compression="zstd")
    pq.write_table(strings, tmp_path / "strings.parquet")
    pq.write_table(encoded, tmp_path / "categories.parquet")
    pyarrow.feather.write_feather(table, tmp_path / "a.feather")
    pyarrow.feather.write_feather(encoded, tmp_path / "categories.feather", compression="lz4")
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=3)
    expected = contents(read_table(tmp_path / "a.csv"))
    for path in sorted(tmp_path.iterdir()):
        assert contents(read_table(path)) == expected, path.name
    both = read_table(tmp_path)
    assert len(both) == len(list(tmp_path.iterdir())) * len(records)


def test_engines_agree_on_random_text(tmp_path):
    """Cells of any characters, as long as they are a table."""
    rng = random.Random(0)
    alphabet = ["1", "2", ".", "-", "+", "e", " ", "\t", "a", "N", "A", "nan", "inf", '"', "'", "?", "#", "é", "_", "0"]
    path = tmp_path / "a.csv"
    for _ in range(150):
        width = rng.randint(1, 3)
        rows = [
            ["".join(rng.choices(alphabet, k=rng.randint(0, 4))) for _ in range(width)]
            for _ in range(rng.randint(1, 6))
        ]
        out = io.StringIO()
        csv.writer(out, quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])).writerows(rows)
        path.write_text(out.getvalue(), newline="")
        if not out.getvalue().strip():
            continue
        results = []
        for use_arrow in (True, False):
            try:
                results.append(contents(read_delimited(path, header=False, use_arrow=use_arrow)))
            except ValueError as e:
                results.append(str(e))
        assert results[0] == results[1], out.getvalue()


def test_late_surprises_are_read_alike(tmp_path):
    """A value far below the sample decides about its column, in both engines."""
    path = tmp_path / "a.csv"
    for surprise in ("x", "inf", "-nan", "9007199254740993", "1e300", " NA ", "", "1_0", "+5", '"7"', "1,5", '"a\nb"'):
        if "," in surprise:
            continue
        path.write_text("a,b\n" + "1,2\n" * 12_000 + f"{surprise},3\n" + "4,5\n" * 12_000)
        frames = [contents(read_delimited(path, use_arrow=use_arrow)) for use_arrow in (True, False)]
        assert frames[0] == frames[1], surprise


def test_plain_numbers_are_the_same_tensors_without_pyarrow(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    table = np.column_stack(
        [rng.integers(0, 3, 500), rng.standard_normal((500, 4)) * 10.0 ** rng.integers(-8, 8, (500, 4))]
    )
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", fmt="%.17g")
    expected = read_channel(tmp_path).tensors
    assert torch.equal(expected[0], torch.from_numpy(table[:, 1:]).float())
    monkeypatch.setattr(channel, "read_delimited", lambda *args: read_delimited(*args, use_arrow=False))
    for a, b in zip(read_channel(tmp_path).tensors, expected):
        assert torch.equal(a, b)


def test_folders_of_datasets(tmp_path):
    """What `save_to_disk` of `datasets` writes: streams of Arrow with their descriptions."""
    table = pa.table({"text": ["a", "b"], "label": [0, 1]})
    for split in ("train", "test"):
        folder = tmp_path / split
        folder.mkdir()
        with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as stream:
            stream.write_table(table)
        (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
        (folder / "dataset_info.json").write_text("{}")
    assert list(read_table(tmp_path / "train")["text"]) == ["a", "b"]
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match="has several splits of a dataset: pass one of them"):
        read_table(tmp_path)
